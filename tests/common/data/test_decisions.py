"""What becomes of a row: a positive, a negative, or left out with its cause."""

from collections import Counter
from pathlib import Path

import pytest

from melfed.common.data.decisions import Decisions, UnknownWords, Verdict, refuse_what_is_open
from melfed.common.data.tables.lines import MALIGNANT, MELANOMA, NO_MELANOMA
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.tables import Table, open_tables
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import positive_entities
from melfed.common.errors import DataError
from tests.common.lesions import write


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return open_tables(write(tmp_path / "t.csv", "image,diagnosis", "a,nevus", "b,nevus"))[0]


def row(table: Table, word: str, stated: frozenset[str] | None = None, line: int = 0, **values: str) -> Row:
    return Row("a", table, line, read_diagnosis(word), stated, **values)


DECISIONS = Decisions(positive_entities(["mel"]), ReadOptions())


@pytest.mark.parametrize(
    ("word", "stated", "verdict"),
    [
        ("melanoma", None, Verdict(1, "mel")),
        ("nevus", None, Verdict(0, "nv")),
        ("nevus", NO_MELANOMA, Verdict(0, "nv")),
        ("", MELANOMA, Verdict(1, "mel")),
        ("", NO_MELANOMA, Verdict(0, None)),
        ("malignant", NO_MELANOMA, Verdict(0, "mal_oth")),
        (
            "malignant",
            None,
            Verdict(None, "malignant", "undecided", "diagnosis 'malignant' leaves open whether it is a positive"),
        ),
        (
            "",
            MALIGNANT,
            Verdict(None, "malignant", "no diagnosis", "no diagnosis that settles whether it is a positive"),
        ),
        ("", None, Verdict(None, None, "no diagnosis", "no diagnosis that settles whether it is a positive")),
        ("wartoid", None, Verdict(None, None, "unknown word", "diagnosis 'wartoid' is not in the vocabulary")),
        (
            "nevus",
            MELANOMA,
            Verdict(
                None,
                None,
                "cannot be used",
                "diagnosis 'nevus' contradicts the target; mend one of the two cells",
            ),
        ),
    ],
)
def test_a_row_is_decided_by_all_that_is_said(
    table: Table, word: str, stated: frozenset[str] | None, verdict: Verdict
) -> None:
    assert DECISIONS.of(row(table, word, stated)) == verdict


def test_doubt_is_not_settled_by_a_column_of_0_and_1(table: Table) -> None:
    assert DECISIONS.of(row(table, "melanoma?", NO_MELANOMA)).cause == "undecided"


def test_pictures_that_show_no_skin_are_left_out_unless_asked_for(table: Table) -> None:
    confocal, made = row(table, "nevus", image_type="rcm"), row(table, "nevus", manipulated="synthetic")
    assert DECISIONS.of(confocal) == Verdict(None, None, "kind of picture", "image type rcm")
    assert DECISIONS.of(made) == Verdict(None, None, "kind of picture", "synthetic")
    everything = Decisions(positive_entities(["mel"]), ReadOptions(image_types=frozenset({"rcm"}), synthetic=True))
    assert everything.of(confocal) == everything.of(made) == Verdict(0, "nv")


def test_rows_that_say_the_same_have_one_key(table: Table) -> None:
    one = row(table, "nevus")
    assert Decisions.key(one) == Decisions.key(Row("b", table, 1, one.diagnosis))
    assert Decisions.key(one) != Decisions.key(Row("b", table, 1, one.diagnosis, image_type="clinical"))


def test_what_nobody_may_pass_over_is_refused(table: Table) -> None:
    bad = (row(table, "nevus", MELANOMA), "cannot be used", "it contradicts")
    with pytest.raises(DataError, match=r"^t.csv, line 2: it contradicts$"):
        refuse_what_is_open([bad], ["mel"])
    with pytest.raises(
        DataError, match=r"^t.csv, line 3: the diagnosis of 'a' is not known well enough .* of bcc, nv;"
    ):
        refuse_what_is_open([(row(table, "", line=1), "no diagnosis", "")], ["nv", "bcc"])
    refuse_what_is_open([(row(table, "malignant"), "undecided", "open")], ["mel"])


def test_unknown_words_are_named_together_with_their_counts(table: Table) -> None:
    words = [*["oddity"] * 2, "wartoid"]
    with pytest.raises(UnknownWords, match=r"^2 diagnoses are not in the vocabulary: 'oddity' \(2\), 'wartoid' \(1\)"):
        refuse_what_is_open([(row(table, word), "unknown word", "") for word in words], ["mel"])
    many = UnknownWords(Counter({f"word {number}": 1 for number in range(10)}))
    assert "'word 7' (1) and 2 more; map each" in str(many)
