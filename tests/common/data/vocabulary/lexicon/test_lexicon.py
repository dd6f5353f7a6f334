"""The lexicon: every entry reads as it says, and every word has a source."""

import pytest

from melfed.common.data.vocabulary.compose import OPEN_WORD
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING
from melfed.common.data.vocabulary.lexicon import FAMILIES
from melfed.common.data.vocabulary.lexicon.entry import Entry

ENTRIES = [entry for heads, whole in FAMILIES.values() for entry in (*heads, *whole)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.words[:40])
def test_an_entry_reads_as_it_says(entry: Entry) -> None:
    entities = EVERYTHING if entry.code == OPEN_WORD else CODES[entry.code].entities
    for name in entry.words.split("|"):
        found = read_diagnosis(name)
        assert found.could_be == entities, name
        assert found.reading in ("known", "undecided"), name
