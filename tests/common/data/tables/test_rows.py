"""A row: where it is, what it can be, and whose it is."""

from pathlib import Path

import pytest

from melfed.common.data.tables.lines import MELANOMA, NO_MELANOMA
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.tables import Table, open_tables
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import CODES
from tests.common.lesions import write


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return open_tables(write(tmp_path / "clinic" / "t.csv", "image,target", "a,0", "b,1"))[0]


def row(table: Table, word: str = "", **values) -> Row:
    return Row("a", table, 1, read_diagnosis(word), **values)


def test_a_place_is_the_files_line(table: Table) -> None:
    assert row(table).where == "t.csv, line 3"


@pytest.mark.parametrize(
    ("word", "stated", "could_be"),
    [
        ("wartoid", MELANOMA, None),
        ("", None, None),
        ("", NO_MELANOMA, NO_MELANOMA),
        ("nevus", None, CODES["nv"].entities),
        ("nevus", MELANOMA, frozenset()),
        ("malignant", NO_MELANOMA, CODES["malignant"].entities & NO_MELANOMA),
    ],
)
def test_what_a_lesion_can_be_is_what_words_and_target_leave(
    table: Table, word: str, stated: frozenset[str] | None, could_be: frozenset[str] | None
) -> None:
    assert row(table, word, stated=stated).could_be == could_be


def test_ids_are_scoped_by_source_and_lesions_by_their_patient(table: Table) -> None:
    one = row(table, patient="7", lesion="l1", source="A")
    assert (one.patient_id(False), one.patient_id(True)) == ("a:7", "7")
    assert (one.lesion_id(False, apart=False), one.lesion_id(True, apart=False)) == ("a%3A7:l1", "7:l1")
    nobodys = row(table, lesion="l1")
    assert (nobodys.patient_id(False), nobodys.lesion_id(False, False)) == (None, "clinic:l1")
    assert nobodys.lesion_id(True, False) == "l1"


def test_published_lesions_are_unique_unless_rows_are_kept_apart(table: Table) -> None:
    published = row(table, patient="7", lesion="il_0000001", source="A")
    assert published.lesion_id(False, apart=False) == "il_0000001"
    assert published.lesion_id(False, apart=True) == "a%3A7:il_0000001"


def test_a_study_may_ask_for_pictures_that_are_left_out_else() -> None:
    options = ReadOptions(synthetic=True)
    assert options.asking_for("all") is options
    asked = options.asking_for(["rcm", "dermoscopic"])
    assert (asked.image_types, asked.synthetic) == (frozenset({"rcm", "dermoscopic"}), True)
