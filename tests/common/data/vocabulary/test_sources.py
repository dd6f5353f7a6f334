"""Sources: each is used, and each entry has one."""

from melfed.common.data.vocabulary.lexicon import FAMILIES, QUALIFIER_LISTS
from melfed.common.data.vocabulary.published import PUBLISHED
from melfed.common.data.vocabulary.sources import SOURCES

ENTRIES = [entry for heads, whole in FAMILIES.values() for entry in (*heads, *whole)]


def test_every_source_is_used_and_every_entry_has_one() -> None:
    used = {entry.source for entry in ENTRIES} | {item.source for items in QUALIFIER_LISTS for item in items}
    assert used | set(PUBLISHED) | {"icd10", "icd11", "icdo"} == set(SOURCES)
