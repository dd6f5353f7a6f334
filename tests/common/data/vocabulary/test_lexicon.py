"""The lexicon: every entry reads as it says, and every word has a source."""

import pytest

from melfed.common.data.vocabulary import page
from melfed.common.data.vocabulary.compose import OPEN_WORD
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING
from melfed.common.data.vocabulary.lexicon import FAMILIES, QUALIFIER_LISTS
from melfed.common.data.vocabulary.lexicon.entry import Entry, entries_by_stems, qualifiers_by_stems
from melfed.common.data.vocabulary.published import PUBLISHED
from melfed.common.data.vocabulary.sources import SOURCES
from tests.conftest import REPOSITORY

ENTRIES = [entry for heads, whole in FAMILIES.values() for entry in (*heads, *whole)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.words[:40])
def test_an_entry_reads_as_it_says(entry: Entry) -> None:
    entities = EVERYTHING if entry.code == OPEN_WORD else CODES[entry.code].entities
    for name in entry.words.split("|"):
        found = read_diagnosis(name)
        assert found.could_be == entities, name
        assert found.reading in ("known", "undecided"), name


def test_every_source_is_used_and_every_entry_has_one() -> None:
    used = {entry.source for entry in ENTRIES} | {item.source for items in QUALIFIER_LISTS for item in items}
    assert used | set(PUBLISHED) | {"icd10", "icd11", "icdo"} == set(SOURCES)


def test_one_name_with_two_meanings_is_refused() -> None:
    with pytest.raises(ValueError, match="the lexicon says of melanom both mel and nv"):
        entries_by_stems([Entry("melanoma", "mel", "who"), Entry("Mélanome", "nv", "who")])


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="empty name"):
        entries_by_stems([Entry("melanoma | ", "mel", "who")])
    with pytest.raises(ValueError, match="empty name"):
        qualifiers_by_stems([*QUALIFIER_LISTS[0], type(QUALIFIER_LISTS[0][0])("")])


def test_the_page_is_that_of_the_code() -> None:
    written = (REPOSITORY / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    assert written == page.render(), "run: python -m melfed.common.data.vocabulary.page docs/vocabulary.md"
