import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.data.identity import doubt, normal_id
from melfed.common.data.records import read_table
from melfed.common.data.tables.cells import LONGEST, OLDEST, is_unknown, read_age, read_binary
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.sex import read_sex
from melfed.common.data.vocabulary.sites import read_site
from melfed.common.data.vocabulary.skin import read_fitzpatrick
from melfed.common.errors import DataError
from tests.common.lesions import read_rows, touch, write


@pytest.mark.parametrize(
    ("text", "age"),
    [
        *[("45", 45), ("45.0", 45), ("45,5", 45.5), (" 45 ", 45), ("007", 7), ("0", 0), ("120", 120)],
        *[("060Y", 60), ("60Y", 60), ("60y", 60), ("018M", 1.5), ("000D", 0)],
        *[(">90", 90), ("≥ 90", 90), (">=90", 90), ("90+", 90), ("85+", 85), ("~40", 40), ("<1", 1)],
        *[("60 years", 60), ("60 Jahre", 60), ("60 J.", 60), ("60 ans", 60), ("６０", 60)],
        *[("1960", None), ("999", None), ("300", None), ("121", None), ("-1", None), ("-45", None)],
        *[("40-50", None), ("(40,45]", None), ("nan", None), ("inf", None), ("1e2", None), ("", None), ("old", None)],
        *[("1960-05-01", None), ("45,5,5", None), ("4 5", None)],
    ],
)
def test_ages(text, age):
    assert read_age(text) == age


def test_an_age_in_weeks():
    assert read_age("026W") == pytest.approx(26 * 7 / 365.25)


@given(st.text(max_size=10))
def test_an_age_is_one_that_a_person_can_have(text):
    age = read_age(text)
    assert age is None or 0 <= age <= OLDEST


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1", 1), ("0", 0), ("1.0", 1), ("0,0", 0), (" 1 ", 1), ("True", 1), ("FALSE", 0), ("1.", 1)],
        *[("2", None), ("yes", None), ("", None), ("0.5", None), ("-1", None), ("nan", None), ("1e400", None)],
    ],
)
def test_binary_cells(text, value):
    assert read_binary(text) == value


@pytest.mark.parametrize("text", ["", " ", "NA", "N/A", "nan", "Unknown", "unbekannt", "k. A.", "?", "-", "#NV"])
def test_unknown_cells(text):
    assert is_unknown(text)


@pytest.mark.parametrize("text", ["0", "nevus", "no", "benign", "none of these"])
def test_known_cells(text):
    assert not is_unknown(text)


LONG = ["0" * LONGEST + "x", "1." * (LONGEST // 2), " " * LONGEST + "x", "and" + " " * LONGEST, "a " * (LONGEST // 2)]
LONG += ["1 x 1 " * (LONGEST // 6), "td of " * (LONGEST // 6), "'" * LONGEST, "é" * LONGEST, "1e+" * (LONGEST // 3)]
READERS = [read_age, read_binary, is_unknown, normal_id, doubt, read_diagnosis, read_site, read_sex, read_fitzpatrick]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_the_longest_cells_keep_nobody_waiting(reader):
    started = time.process_time()
    for text in LONG:
        reader(text[:LONGEST])
    assert time.process_time() - started < 5  # 10 cells; a search that looks at all pairs of signs takes minutes


@pytest.mark.parametrize("column", ["image", "diagnosis", "patient_id", "site", "source"])
def test_a_longer_cell_is_refused_with_its_place(tmp_path, column):
    cells = {"image": "a.jpg", "target": "0", "diagnosis": "nevus", "patient_id": "1", "site": "", "source": "A"}
    long = cells | {"image": "b.jpg"} | {column: "melanoma " * 2_000_000}
    path = write(tmp_path / "t.csv", *(",".join(row) for row in (cells, cells.values(), long.values())))
    started = time.process_time()
    with pytest.raises(DataError, match=rf"line 3: the column {column} holds a cell of 18,000,000 characters; give it"):
        read_rows([path])
    touch(tmp_path, "a.jpg", "b.jpg")
    found = read_table(tmp_path, strict=False)
    assert [record.image for record in found.records] == ["a.jpg"]
    assert all(len(left.image) + len(left.reason) < 500 for left in found.left_out)
    assert all(len(use.word) < 100 for use in found.words)
    assert time.process_time() - started < 20


def test_a_longer_cell_of_a_column_that_nobody_reads_does_no_harm(tmp_path):
    path = write(tmp_path / "t.csv", "image,target,letter", f"a.jpg,0,{'x' * (LONGEST + 1)}")
    assert len(read_rows([path])[1]) == 1
