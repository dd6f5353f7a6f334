"""What a table is known by: its columns, or the cells of a first line without a header."""

import re

import pytest

from melfed.common.data.readers import KINDS
from melfed.common.data.readers.kinds import ANY_ID, NO_ID, PUBLISHED_LESION, PUBLISHED_PATIENT, TableKind


def kind(**values) -> TableKind:
    return TableKind("a layout", ("image", "label"), lambda lines: [], **values)


def test_all_columns_must_be_there_and_others_may() -> None:
    assert kind().knows({"image", "label", "more"})
    assert not kind().knows({"image", "more"})
    assert not kind().near


def test_a_kind_may_know_its_columns_by_near_names() -> None:
    near = kind(matches=lambda keys: "bild" in keys)
    assert near.knows({"bild"})
    assert not near.knows({"image", "label"})
    assert near.near


BARE = kind(headerless=(re.compile(r"ISIC_\d{7}"), re.compile("benign|malignant")))


@pytest.mark.parametrize(
    ("lines", "reads"),
    [
        ([["ISIC_0000001", "benign"]], True),
        ([[" ISIC_0000001 ", "benign "]], True),
        ([["ISIC_0000001", "perhaps"], ["ISIC_0000002", "malignant"]], True),
        ([["image", "label"], ["ISIC_0000002", "malignant"]], False),
        ([["ISIC_0000001", "perhaps"]], False),
        ([["ISIC_0000001", "benign", "more"]], False),
        ([], False),
    ],
)
def test_a_table_without_a_header_begins_with_an_image_and_has_a_whole_line(
    lines: list[list[str]], reads: bool
) -> None:
    assert BARE.reads(lines) == reads
    assert not kind().reads(lines)


def test_which_ids_are_unique() -> None:
    for name in ("ip_0000001", "7", "line\nbreak"):
        assert ANY_ID.fullmatch(name)
        assert not NO_ID.fullmatch(name)
    assert PUBLISHED_PATIENT.fullmatch("ip_0000001")
    assert not PUBLISHED_PATIENT.fullmatch("ip_1")
    assert all(PUBLISHED_LESION.fullmatch(f"{start}_0000001") for start in ("il", "ham", "bcn", "msk", "msk4"))
    assert not PUBLISHED_LESION.fullmatch("7")


def test_every_kind_of_table_is_recognised_by_its_columns_alone():
    for kind in KINDS:
        assert next(other for other in KINDS if other.knows(set(kind.columns))) is kind or kind.near
