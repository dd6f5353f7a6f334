"""Codes and the entities below them."""

import pytest

from melfed.common.data.vocabulary.entities import CODES, ENTITIES, EVERYTHING, code_of, positive_entities
from melfed.common.errors import DataError


def test_every_code_names_entities_that_are_there() -> None:
    assert frozenset().union(*(code.entities for code in CODES.values())) == EVERYTHING == frozenset(ENTITIES)
    assert all(code.coarse in CODES for code in CODES.values())


def test_no_two_codes_are_one_set() -> None:
    assert len({code.entities for code in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("name", CODES)
def test_a_code_is_found_by_its_entities(name: str) -> None:
    code = code_of(CODES[name].entities)
    assert code is not None
    assert code.name == name


def test_nothing_and_everything_have_no_code() -> None:
    assert code_of(frozenset()) is None
    assert code_of(EVERYTHING) is None


def test_benign_and_malignant_share_nothing_and_actinic_keratosis_is_neither() -> None:
    assert not CODES["benign"].entities & CODES["malignant"].entities
    assert EVERYTHING - CODES["benign"].entities - CODES["malignant"].entities == {"ak"}
    assert CODES["mel"].entities < CODES["malignant"].entities


def test_positives_are_the_union_whatever_their_case() -> None:
    assert positive_entities(["MEL", " bcc "]) == CODES["mel"].entities | {"bcc"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "positive: no diagnosis is named"),
        (["melanom"], r"positive: no diagnosis is called 'melanom'.* known are mel, mel_invasive, .*malignant$"),
        (["mell"], r"'mell' \(did you mean mel\?\)"),
        (["melanocytic"], "no diagnosis is called 'melanocytic'"),
        (["malignant", "benign", "ak"], "every diagnosis is a positive"),
    ],
)
def test_positives_that_cannot_be_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        positive_entities(names)
