"""Entries of the lexicon by the stems of their names."""

import pytest

from melfed.common.data.vocabulary.lexicon import QUALIFIER_LISTS
from melfed.common.data.vocabulary.lexicon.entry import Entry, Qualifier, entries_by_stems, qualifiers_by_stems
from melfed.common.data.vocabulary.spelling import stems


def test_one_name_with_two_meanings_is_refused() -> None:
    with pytest.raises(ValueError, match="the lexicon says of melanom both mel and nv"):
        entries_by_stems([Entry("melanoma", "mel", "who"), Entry("Mélanome", "nv", "who")])


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="empty name"):
        entries_by_stems([Entry("melanoma | ", "mel", "who")])
    with pytest.raises(ValueError, match="empty name"):
        qualifiers_by_stems([*QUALIFIER_LISTS[0], type(QUALIFIER_LISTS[0][0])("")])


def test_names_are_found_by_their_stems_and_a_word_may_stand_beside_several_classes() -> None:
    entry = Entry("Malignant melanomas | Melanom", "mel", "who")
    assert entries_by_stems([entry]) == {stems("malignant melanoma"): entry, stems("Mélanome"): entry}
    one, other = Qualifier("nodular", frozenset({"mel"})), Qualifier("nodular", frozenset({"bcc"}))
    assert qualifiers_by_stems([one, other]) == {stems("nodular"): (one, other)}


def test_the_same_meaning_twice_is_no_contradiction() -> None:
    assert len(entries_by_stems([Entry("melanoma", "mel", "who"), Entry("Mélanome", "mel", "usage")])) == 1
