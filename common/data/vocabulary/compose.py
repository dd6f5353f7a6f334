"""Diagnoses of several words: the name of a lesion with words beside it that are all known.

`Malignant melanoma, superficial spreading, of skin of trunk (disorder)` is in no list; each of its parts is. A text
with a part that is not is not read at all. Doubt and denial (`suspected`, `no`, `?`, `status post`) and two lesions
at once leave the diagnosis undecided.
"""

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Literal

from melfed.common.data.vocabulary.entities import CODES, EVERYTHING
from melfed.common.data.vocabulary.lexicon import ANY, HEADS, QUALIFIERS, Entry, Qualifier
from melfed.common.data.vocabulary.spelling import plain, stem

OPEN_WORD: Final = "open"
"""The code of entries that settle nothing."""
MELANOMAS: Final = CODES["mel"].entities
_IN_SITU = CODES["mel_in_situ"].entities
_LONGEST: Final = max(map(len, (*HEADS, *QUALIFIERS)))
_DEPTHS: Final = (
    "breslow|tumor ?dicke|tumou?r thickness|thickness|td|dicke|epaisseur|espesor|spessore|espessura|dikte|depth"
)
_BY: Final = "(?: nach| of| by| de| di| index| thickness| depth| breslow)*"
_SIZES: Final = re.compile(
    r"\b(?:less than |more than |at least |up to |ca |circa )?\d+(?:\.\d+)?(?: ?(?:to|bis|a|x) ?\d+(?:\.\d+)?)? ?"
    r"(?:mm|cm)\b"
)
_GRADINGS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:{_DEPTHS}){_BY}(?: \d+(?:\.\d+)?)?(?= |$)",
        r"\b(?:clark )?(?:level|niveau|nivel|livello) (?:i{1,3}|iv|v|[1-5])\b|\bclark (?:i{1,3}|iv|v|[1-5])\b",
        r"\b(?:ajcc |uicc )?(?:stage|stadium|stade|estadio|estadiamento|stadio) (?:i{1,3}|iv)[abcd]?\b",
        r"\bp?t[1-4][ab]?\b|\bp?n[0-3][abc]?\b|\bc?m[01][abcd]?\b|\bg ?[1-4]\b|\bgrade [1-4]\b",
    )
)
"""Thickness, level, stage and grade: they stand beside a malignant tumour and change nothing of what it is."""
_Phrase = Entry | tuple[Qualifier, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader made of a text."""

    could_be: frozenset[str]
    source: str


def read(text: str) -> Found | None:
    """What a text says whose every part is known; None where one is not, or where it names no lesion."""
    sized = _SIZES.sub(" ", plain(text))
    graded = sized
    for grading in _GRADINGS:
        graded = grading.sub(" ", graded)
    words = [stem(word) for word in graded.split()]
    phrases = _phrases(words, None)
    heads = [phrase for phrase in phrases or () if isinstance(phrase, Entry)]
    if phrases is None or not heads:
        return None
    if any(head.code == OPEN_WORD for head in heads) or any(_hedges(phrase) for phrase in phrases):
        return Found(EVERYTHING, heads[0].source)
    classes = ANY.union(CODES[head.code].coarse for head in heads)
    fitting = _phrases(words, classes)
    if fitting is None or (graded != sized and not all(_is_malignant(head) for head in heads)):
        return None
    parts = [part for phrase in fitting for part in (phrase if isinstance(phrase, tuple) else (phrase,))]
    effects = {part.effect for part in parts if isinstance(part, Qualifier) and part.to & classes}
    return Found(_narrowed(_named(parts, classes), effects), heads[0].source)


def read_qualifiers(text: str) -> Literal["hedge", "neutral"] | None:
    """Whether words that name no lesion doubt the one beside them, or say nothing of it; None where one is unknown."""
    phrases = _phrases([stem(word) for word in plain(text).split()], None)
    if phrases is None or any(isinstance(phrase, Entry) for phrase in phrases):
        return None
    return "hedge" if any(_hedges(phrase) for phrase in phrases) else "neutral"


def _phrases(words: list[str], classes: frozenset[str] | None) -> list[_Phrase] | None:
    """The longest known phrases from left to right that cover all words; None where a word is not known.

    Args:
        words: stems.
        classes: of the lesions that the text names; only qualifiers that may stand beside them are known then.
    """
    phrases: list[_Phrase] = []
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            if phrase := _phrase(tuple(words[at : at + length]), classes):
                phrases.append(phrase)
                at += length
                break
        else:
            return None
    return phrases


def _phrase(key: tuple[str, ...], classes: frozenset[str] | None) -> _Phrase | None:
    if (entry := HEADS.get(key)) and (classes is None or CODES[entry.code].coarse in classes):
        return entry
    senses = QUALIFIERS.get(key, ())
    return senses if classes is None else tuple(sense for sense in senses if sense.to & classes)


def _hedges(phrase: _Phrase) -> bool:
    return isinstance(phrase, tuple) and any(qualifier.effect == "hedge" for qualifier in phrase)


def _is_malignant(head: Entry) -> bool:
    return CODES[head.code].entities <= CODES["malignant"].entities


def _named(parts: list[Entry | Qualifier], classes: frozenset[str]) -> frozenset[str]:
    """The entities of all names of lesions in a text."""
    heads = _growing(parts) or [part for part in parts if isinstance(part, Entry)]
    turns = [part.code for part in parts if isinstance(part, Qualifier) and part.effect == "turn" and part.to & classes]
    sets = [CODES[head.code].entities for head in heads if not (turns and head.code == "nv")]
    sets += [CODES[code].entities for code in turns]
    smallest = min(sets, key=len)
    if all(CODES[head.code].decided for head in heads) and all(smallest <= entities for entities in sets):
        return smallest
    return frozenset().union(*sets)


def _growing(parts: list[Entry | Qualifier]) -> list[Entry]:
    """The names of the melanoma where a text says that it grew in a naevus (`in`, `arising in`, `auf`); else none."""
    link = next((at for at, part in enumerate(parts) if isinstance(part, Qualifier) and part.effect == "link"), None)
    before = [part for part in parts[:link] if isinstance(part, Entry)]
    after = [part for part in parts[link:] if isinstance(part, Entry)]
    grows = all(CODES[head.code].entities <= MELANOMAS for head in before)
    ground = all(CODES[head.code].entities <= MELANOMAS | {"nv"} and CODES[head.code].decided for head in after)
    return before if link is not None and grows and ground else []


def _narrowed(entities: frozenset[str], effects: Set[str]) -> frozenset[str]:
    if entities <= MELANOMAS:
        return _narrowed_melanoma(entities, effects)
    if entities <= CODES["scc"].entities and {"in situ", "invasive"} & effects:
        return frozenset({"bowen"}) if "invasive" not in effects else entities - {"bowen"}
    return entities


def _narrowed_melanoma(entities: frozenset[str], effects: Set[str]) -> frozenset[str]:
    if "metastasis" in effects:
        return frozenset({"mel_metastasis"})
    if "ocular" in effects:
        return frozenset({"mel_ocular"})
    if {"in situ", "invasive"} <= effects:
        return MELANOMAS - {"mel_ocular", "mel_metastasis"}
    if "in situ" in effects:
        return entities & _IN_SITU or _IN_SITU
    if "invasive" in effects:
        return frozenset({"mel_invasive"})
    return entities
