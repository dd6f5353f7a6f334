"""The words of the vocabulary, one file a family of lesions; `docs/vocabulary.md` is made of them."""

from typing import Final

from melfed.common.data.vocabulary.lexicon import keratinocytic, melanocytic, melanoma, other, qualifiers
from melfed.common.data.vocabulary.lexicon.entry import ANY, Entry, Qualifier, entries_by_stems, qualifiers_by_stems

__all__ = ["ANY", "FAMILIES", "HEADS", "QUALIFIERS", "QUALIFIER_LISTS", "WHOLE", "Entry", "Qualifier"]

FAMILIES: Final = {
    "Melanoma": (melanoma.HEADS, melanoma.WHOLE),
    "Melanocytic lesions": (melanocytic.HEADS, melanocytic.WHOLE),
    "Keratinocytic lesions": (keratinocytic.HEADS, keratinocytic.WHOLE),
    "Other lesions": (other.HEADS, other.WHOLE),
}
"""For each family the names that may have words beside them, and those that must be the whole text."""
QUALIFIER_LISTS: Final = (
    melanoma.QUALIFIERS,
    melanocytic.QUALIFIERS,
    keratinocytic.QUALIFIERS,
    other.QUALIFIERS,
    qualifiers.QUALIFIERS,
)

HEADS: Final = entries_by_stems(entry for heads, _ in FAMILIES.values() for entry in heads)
WHOLE: Final = entries_by_stems(entry for heads, whole in FAMILIES.values() for entry in (*whole, *heads))
QUALIFIERS: Final = qualifiers_by_stems(entry for entries in QUALIFIER_LISTS for entry in entries)
