"""The lines of a table, column by column."""

from pathlib import Path

import pytest

from melfed.common.data.tables.cells import LONGEST
from melfed.common.data.tables.lines import MELANOMA, MISSING, NO_MELANOMA, Lines
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.data.tables.tables import open_tables
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.errors import DataError
from tests.common.lesions import write


@pytest.fixture
def lines(tmp_path: Path):
    def read(*text: str, strict: bool = True, options: ReadOptions | None = None) -> Lines:
        (table,) = open_tables(write(tmp_path / "t.csv", *text), strict)
        return Lines(table, options or ReadOptions(), strict)

    return read


def test_text_takes_the_first_column_that_says_something(lines) -> None:
    found = lines("image,target,diagnosis,source", "a,0,unknown,A", "b,0, nevus ,")
    assert (found.count, found.has("source"), found.has("dx")) == (2, True, False)
    assert found.text("diagnosis", "diagnosis", "source") == ["A", "nevus"]
    assert found.cells("diagnosis") == ["unknown", " nevus "]
    assert found.text("site") == [None, None]
    assert found.used == {"diagnosis": "diagnosis", "source": "diagnosis"}


def test_what_is_not_understood_is_counted(lines) -> None:
    found = lines("image,target,age", "a,0,50", "b,0,1960", "c,0,1960", "d,0,")
    assert found.read(lambda text: 50.0 if text == "50" else None, "age") == [50.0, None, None, None]
    assert found.unread == {"age": {"1960": 2}}


def test_columns_of_0_and_1(lines) -> None:
    found = lines("image,target,MEL,NV", "a,1,1,0", "b,0.0,1,1", "c,x,0,1")
    assert found.stated("target", MELANOMA, NO_MELANOMA) == [MELANOMA, NO_MELANOMA, None]
    assert found.problems == {2: "target is 'x', and only 0 or 1 is allowed; mend that cell"}


def test_exactly_one_of_several_columns_is_1(lines) -> None:
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    found = lines(header, "a,1,0,0,0,0,0,0,0,0", "b,1,1,0,0,0,0,0,0,0", "c,0,0,0,0,0,0,0,0,0")
    assert found.one_hot(("mel", "nv")) == ["mel", None, None]
    assert found.problems == {
        1: "2 of the columns MEL, NV are 1; exactly one must be",
        2: "0 of the columns MEL, NV are 1; exactly one must be",
    }


def test_words_levels_and_codes_become_diagnoses(lines) -> None:
    options = ReadOptions(diagnoses={"wartoid": "ben_oth"})
    found = lines("image,diagnosis", "a,melanoma", "b,wartoid", "c,", "d,malignant::melanoma", options=options)
    words = found.diagnoses("diagnosis")
    assert words[0] == read_diagnosis("melanoma")
    assert words[1].reading == "known"
    assert words[2] is MISSING
    assert found.levels("diagnosis", "::")[3].could_be == MELANOMA
    assert [diagnosis.word for diagnosis in found.coded(["mel", None])] == ["mel", MISSING.word]


def test_a_line_without_its_image_has_a_problem_and_an_empty_one_is_none(lines) -> None:
    found = lines("image,target,patient_id", "a,0,7", ",1,8", ",,")
    rows = found.rows([MISSING] * found.count, image=("image",))
    assert [(row.image, row.line, row.problem) for row in rows] == [
        ("a", 0, None),
        ("", 1, "the column image is empty; name the image or delete the line"),
    ]


def test_a_row_has_what_its_columns_say(lines) -> None:
    found = lines("image,target,patient_id,age,sex,site,source,skin_type", "a_downsampled,0,P7.0,60y,w,Rücken,A,III")
    (row,) = found.rows([MISSING], image_type="clinical")
    assert (row.image, row.patient, row.age, row.sex, row.site, row.source) == (
        "a", "p7.0", 60, "female", "posterior torso", "A"
    )  # fmt: skip
    assert (row.image_type, row.skin_type) == ("clinical", 3)
    assert found.patients == {"p7.0": {"P7.0"}}


def test_ids_that_a_spreadsheet_may_have_changed_are_doubted(lines) -> None:
    found = lines("image,target,patient_id", "a,0,1.2E+10", "b,0,1.2E+10")
    found.rows([MISSING] * 2)
    (doubt,) = found.doubts
    assert doubt.startswith("t.csv: 2 cells of patient_id are ")
    assert doubt.endswith("; export the column as text")


def test_two_columns_that_may_both_be_meant(lines) -> None:
    text = ("image,target,MRN,subject_id", "a,0,P7,1")
    with pytest.raises(DataError, match=r"^t.csv: subject_id and MRN may both be patient_id; call the right one"):
        lines(*text).text("patient_id")
    assert len(lines(*text, strict=False).text("patient_id")) == 1


def test_the_first_problem_of_a_line_is_kept_and_long_or_unparted_cells_are_one(lines) -> None:
    found = lines("image,target,source", f"a,0,{'x' * (LONGEST + 1)}", "b,1,A,B")
    assert found.problems[0].startswith(
        f"the column source holds a cell of {LONGEST + 1:,} characters; give it at most"
    )
    assert found.problems[1] == "4 cells below 3 columns; put quotes around text that holds the separator"
    found.problem(1, "another")
    assert found.problems[1].startswith("4 cells")
    assert found.cells("source")[0] == "x" * 40 + "…"
