"""Rows of several tables about one image: completed, contradicted, or left to each patient."""

from pathlib import Path

import pytest

from melfed.common.data.tables.joining import CONTRADICTION, contradiction, joined, refuse_duplicate, resolved
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.tables import open_tables, read_lines
from melfed.common.errors import DataError
from tests.common.lesions import write

TRUTH = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
ADDS = "image,age_approx,anatom_site_general,lesion_id,sex"
OWN = "image,target,patient_id,source,age"


@pytest.fixture
def join(tmp_path: Path):
    def rows(*tables: tuple[str, ...], strict: bool = True) -> list[Row]:
        read = []
        for number, lines in enumerate(tables):
            (table,) = open_tables(write(tmp_path / f"{number}.csv", *lines), strict)
            read.append((table, read_lines(table, ReadOptions(), strict)[0]))
        return joined(read, strict)

    return rows


@pytest.mark.parametrize("strict", [True, False])
def test_an_addition_completes_a_truth_and_adds_no_rows(join, strict: bool) -> None:
    rows = join(
        (ADDS, "A,50,torso,HAM_1,male", "C,60,,,"), (TRUTH, "A,1,0,0,0,0,0,0,0,0", "B,0,1,0,0,0,0,0,0,0"), strict=strict
    )
    assert [(row.image, row.diagnosis.word, row.age, row.lesion, row.sex) for row in rows] == [
        ("A", "mel", 50, "ham_1", "male"),
        ("B", "nv", None, None, None),
    ]


def test_strictly_a_contradiction_names_both_lines_and_leniently_it_is_a_problem(join) -> None:
    tables = ("image_id,melanoma", "X,1"), ("image_id,melanoma,seborrheic_keratosis", "X,0,0")
    with pytest.raises(DataError, match=r"^1.csv, line 2: diagnosis of 'X' is nv, but mel in 0.csv, line 2; mend one"):
        join(*tables)
    assert len(join(*tables, strict=False)) == 2
    truth = (TRUTH, "A,1,0,0,0,0,0,0,0,0")
    (row,) = join(truth, (ADDS, "A,50,,HAM_1,male", "A,50,,HAM_2,male"), strict=False)
    assert row.problem == CONTRADICTION


def test_a_line_that_cannot_be_used_and_an_empty_truth_are_refused_strictly(join) -> None:
    with pytest.raises(DataError, match=r"^0.csv, line 2: target is '2', and only 0 or 1 is allowed"):
        join((OWN, "a,2,,,"))
    (row,) = join((OWN, "a,2,,,"), strict=False)
    assert row.problem is not None
    with pytest.raises(DataError, match=r"^0.csv: no rows below its header; fill it or move it away$"):
        join((OWN,))


def test_facts_that_differ_are_not_known(join) -> None:
    (row,) = join((TRUTH, "A,1,0,0,0,0,0,0,0,0"), (ADDS, "A,50,,HAM_1,male"), (ADDS, "A,60,,HAM_1,male"))
    assert (row.age, row.sex, row.lesion) == (None, "male", "ham_1")


def test_who_is_meant_may_not_differ(join) -> None:
    one, other, same = join((OWN, "a,0,P1,A,50", "b,0,P2,A,60", "c,0,P1,A,70"))
    assert contradiction(one, other) == "patient of 'b' is p2, but p1"
    assert contradiction(one, same) is None  # an age may


def test_a_duplicate_is_named_by_the_first_of_two_lines_whatever_their_order(join) -> None:
    one, other = join((OWN, "a,0,P1,A,50", "b,1,P2,A,50"))
    for first, second in ((one, other), (other, one)):
        with pytest.raises(
            DataError, match=r"^0.csv, line 3: a second row for 'b', with another .*\(the first: 0.csv, "
        ):
            refuse_duplicate(first, second)


def test_rows_of_two_patients_stay_with_each_and_contradictory_ones_of_one_are_all_left_out(join) -> None:
    lines = (OWN, "a,0,P1,A,50", "b,1,P2,A,50", "c,1,P1,A,50", "d,0,P1,A,50")
    of_one, of_two, against, again = join(lines, strict=False)
    assert [(row.patient, row.problem) for row in resolved([of_one, of_two], False)] == [("p1", None), ("p2", None)]
    assert [row.problem for row in resolved([of_one, against], False)] == [CONTRADICTION] * 2
    assert [(row.patient, row.problem) for row in resolved([of_one, again], False)] == [("p1", None)]
    assert resolved([of_one], False) == [of_one]
