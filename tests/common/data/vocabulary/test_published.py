"""Published words: all are understood, and what SNOMED calls a melanoma is one."""

import pytest

from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.published import PUBLISHED


@pytest.mark.parametrize(("source", "words"), PUBLISHED.items())
def test_every_published_word_is_understood(source: str, words: str) -> None:
    for word in words.split("|"):
        assert read_diagnosis(word).reading in ("known", "undecided"), word


def test_every_name_of_a_melanoma_in_snomed_is_one() -> None:
    assert {read_diagnosis(word).code for word in PUBLISHED["snomed"].split("|")} == {"mel"}
