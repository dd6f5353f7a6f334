"""Cells that say nothing."""

import pytest

from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import positive_entities
from melfed.common.data.vocabulary.missing import says_nothing

MEL = positive_entities(["mel"])


@pytest.mark.parametrize(
    "word", ["", " ", "unknown", "N/A", "nan", "-", "?", "other", "unbekannt", "XXX", "no diagnosis"]
)
def test_a_cell_that_says_nothing(word: str) -> None:
    found = read_diagnosis(word)
    assert (found.reading, found.target(MEL)) == ("missing", None)
    assert says_nothing(word)


@pytest.mark.parametrize("word", ["nevus", "0", "benign", "no melanoma", "melanoma?", "unknown primary"])
def test_a_cell_that_says_something(word: str) -> None:
    assert not says_nothing(word)
