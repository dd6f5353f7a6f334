"""The two kinds of entries that the lexicon is made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from melfed.common.data.vocabulary.spelling import stems

Effect = Literal["", "in situ", "invasive", "metastasis", "ocular", "link", "hedge", "turn"]
ANY: Final = frozenset({"any"})


@dataclass(frozen=True, slots=True)
class Entry:
    """Names of a lesion."""

    words: str
    """The names, with ` | ` between them; endings, accents and British spelling do not matter."""
    code: str
    """A key of `entities.CODES`, or `open` where the words settle nothing."""
    source: str
    """A key of `sources.SOURCES`."""


@dataclass(frozen=True, slots=True)
class Qualifier:
    """Words that may stand beside the name of a lesion, and what they change."""

    words: str
    to: frozenset[str] = ANY
    """The classes beside whose names they may stand (`Code.coarse`, or `any`)."""
    effect: Effect = ""
    """`in situ`, `invasive`, `metastasis`, `ocular` narrow a melanoma (the first three a carcinoma too); `link` joins
    a melanoma to the naevus that it grew in; `hedge` says that the diagnosis is doubted, denied or past; `turn`
    makes a naevus one that is not melanocytic."""
    code: str = ""
    """For `turn`: what the naevus is then."""
    source: str = "usage"


def entries_by_stems(entries: Iterable[Entry]) -> dict[tuple[str, ...], Entry]:
    """The entries by the stems of each of their names.

    Raises:
        ValueError: one name stands in two entries that mean different things.
    """
    found: dict[tuple[str, ...], Entry] = {}
    for entry in entries:
        for key in _names(entry.words):
            if found.setdefault(key, entry).code != entry.code:
                raise ValueError(f"the lexicon says of {' '.join(key)} both {found[key].code} and {entry.code}")
    return found


def qualifiers_by_stems(qualifiers: Iterable[Qualifier]) -> dict[tuple[str, ...], tuple[Qualifier, ...]]:
    """The qualifiers by the stems of each of their names; one word may stand beside several classes."""
    found: dict[tuple[str, ...], tuple[Qualifier, ...]] = {}
    for qualifier in qualifiers:
        for key in _names(qualifier.words):
            found[key] = (*found.get(key, ()), qualifier)
    return found


def _names(words: str) -> list[tuple[str, ...]]:
    names = [stems(name) for name in words.split("|")]
    if not all(names):
        raise ValueError(f"the lexicon has an empty name in '{words}'")
    return names
