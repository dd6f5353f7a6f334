"""From a word that a table writes to the lesions that it can mean.

`read_diagnosis` never guesses: a text of which any part is not in the vocabulary is *unknown*, and an unknown word is
neither a positive nor a negative. The words are in `lexicon/` and in the ISIC archive's own hierarchy.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from melfed.common.data.vocabulary import archive, codes, compose
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING, OPEN, code_of
from melfed.common.data.vocabulary.lexicon import WHOLE
from melfed.common.data.vocabulary.missing import says_nothing
from melfed.common.data.vocabulary.spelling import plain, stems
from melfed.common.errors import DataError

Reading = Literal["known", "undecided", "unknown", "missing"]
LEAVE_OUT: Final = "leave_out"
"""What a person maps a word to whose rows are to be left out."""
BY_HAND: Final = "mapped by hand"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a word says about a lesion."""

    word: str
    """As it is written, without blanks around it."""
    reading: Reading
    """`known`; `undecided` (the diagnosis is itself open: MELTUMP, a collision, `suspected`, two lesions at once);
    `unknown` (not in the vocabulary); `missing` (the cell says nothing: empty, `unknown`, `other`)."""
    could_be: frozenset[str]
    """The entities that the lesion can be; all of them where nothing is known."""
    source: str = ""
    """Key of `sources.SOURCES`, or `BY_HAND`."""

    @property
    def fine(self) -> str | None:
        """The most precise code: `mel_in_situ`, `bowen`, `nv`; None where there is none."""
        code = code_of(self.could_be)
        return code.name if code else None

    @property
    def code(self) -> str | None:
        """The class that reports count it under: `mel`, `nv`, `bcc` ...; None where there is none."""
        code = code_of(self.could_be)
        return code.coarse if code else None

    def target(self, positives: frozenset[str]) -> int | None:
        """1 for a positive of a study, 0 for a negative, None where the word does not say.

        Args:
            positives: entities, from `entities.positive_entities`.
        """
        if self.could_be <= positives:
            return 1
        return None if self.could_be & (positives | OPEN) else 0

    def without(self, *names: str) -> "Diagnosis":
        """The same diagnosis where the table rules out some codes, as a binary `melanoma` column of 0 does."""
        out = frozenset().union(*(CODES[name].entities for name in names))
        return replace(self, could_be=(self.could_be - out) or EVERYTHING)


def read_diagnosis(word: str, mapping: Mapping[str, str] | None = None) -> Diagnosis:
    """What one cell says.

    Args:
        word: the cell as it is written.
        mapping: a person's own words and what they mean, from `checked_mapping`; they go before the vocabulary.

    >>> found = read_diagnosis("Superficial spreading melanoma, pT1a")
    >>> found.reading, found.code
    ('known', 'mel')
    >>> read_diagnosis("suspected melanoma").reading
    'undecided'
    >>> read_diagnosis("naevoid").reading
    'unknown'
    >>> read_diagnosis("naevoid", checked_mapping({"Naevoid": "mel"})).code
    'mel'
    """
    if mapping and (code := mapping.get(plain(word))):
        return _of_code(word.strip(), code, BY_HAND)
    return _read(word.strip())


def read_levels(levels: Iterable[str | None], mapping: Mapping[str, str] | None = None) -> Diagnosis:
    """What several cells say together that describe one lesion, each more precisely than the one before.

    They are the archive's `diagnosis_1` to `diagnosis_5` or `iddx_1` to `iddx_5`, or `benign_malignant` and
    `diagnosis`. A level that is not in the vocabulary does no harm where the others settle the class.
    """
    return combine([read_diagnosis(level, mapping) for level in levels if level])


def combine(readings: Iterable[Diagnosis]) -> Diagnosis:
    """One diagnosis from several that are about the same lesion: what all of them allow.

    Where they contradict each other, the lesion can be what any of them says, and is undecided. Where one is unknown
    and the others leave the class open, the whole is unknown, and its word is the unknown one.
    """
    given = [reading for reading in readings if reading.reading != "missing"]
    known = [reading for reading in given if reading.reading != "unknown"]
    if not given:
        return _MISSING
    unknown = next((reading for reading in given if reading.reading == "unknown"), None)
    if not known:
        return unknown or _MISSING
    finest = min(reversed(known), key=lambda reading: len(reading.could_be))
    agreed = EVERYTHING.intersection(*(reading.could_be for reading in known))
    if not agreed:
        either = frozenset().union(*(reading.could_be for reading in known))
        words = " / ".join(dict.fromkeys(reading.word for reading in known))
        return Diagnosis(words, "known" if either <= CODES["benign"].entities else "undecided", either, finest.source)
    if unknown and agreed in _OPEN_ENDED:
        return replace(unknown, could_be=agreed)
    return replace(finest, could_be=agreed, reading=_reading(agreed))


def checked_mapping(mapping: Mapping[str, str], where: str = "diagnoses") -> dict[str, str]:
    """A person's own words, in the form that `read_diagnosis` takes.

    Args:
        mapping: word to code, or to `leave_out`.
        where: what the message begins with: the setting or option that holds them.

    Raises:
        DataError: a code that there is not, or two spellings of one word with different codes.
    """
    checked: dict[str, str] = {}
    for word, code in mapping.items():
        name, key = code.strip().lower(), plain(word)
        if name != LEAVE_OUT and name not in CODES:
            near = _read(name).fine or next(iter(difflib.get_close_matches(name, [*CODES, LEAVE_OUT], n=1)), None)
            hint = f" (did you mean {near}?)" if near else ""
            raise DataError(f"{where}: '{word}' is mapped to '{code}', which is no code{hint}; take one of {_names()}")
        if checked.setdefault(key, name) != name:
            raise DataError(f"{where}: '{word}' is mapped to {name} and to {checked[key]}; keep one of the two")
    return checked


def _names() -> str:
    return ", ".join([*CODES, LEAVE_OUT])


def _reading(could_be: frozenset[str]) -> Reading:
    code = code_of(could_be)
    return "known" if code is not None and code.decided else "undecided"


def _of_code(word: str, name: str, source: str) -> Diagnosis:
    could_be = EVERYTHING if name in (LEAVE_OUT, compose.OPEN_WORD) else CODES[name].entities
    return Diagnosis(word, _reading(could_be), could_be, source)


@lru_cache(maxsize=8192)
def _read(word: str) -> Diagnosis:
    if says_nothing(word):
        return replace(_MISSING, word=word)
    if entry := WHOLE.get(stems(word)):
        return _of_code(word, entry.code, entry.source)
    for reader in (codes.read, archive.read, compose.read):
        if found := reader(word):
            return Diagnosis(word, _reading(found.could_be), found.could_be, found.source)
    code, text = codes.split(word)
    return _read_both(word, code, text) if code else Diagnosis(word, "unknown", EVERYTHING)


def _read_both(word: str, code: str, text: str) -> Diagnosis:
    """A code with its words beside it: they must agree, and doubt about it is doubt."""
    beside = compose.read_qualifiers(text)
    if beside == "hedge":
        return Diagnosis(word, "undecided", EVERYTHING, "usage")
    readings = [_read(code)] if beside == "neutral" else [_read(code), _read(text)]
    if any(reading.reading in ("unknown", "missing") for reading in readings):
        return Diagnosis(word, "unknown", EVERYTHING)
    if any(reading.could_be == EVERYTHING for reading in readings):
        return Diagnosis(word, "undecided", EVERYTHING, "usage")
    return replace(combine(readings), word=word)


_MISSING: Final = Diagnosis("", "missing", EVERYTHING)
_OPEN_ENDED: Final = frozenset(CODES[name].entities for name in ("malignant", "indeterminate", "melanocytic"))
