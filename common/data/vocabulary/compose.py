"""Diagnoses of several words: the name of a lesion with words beside it that are all known.

`Malignant melanoma, superficial spreading, of skin of trunk (disorder)` is in no list; each of its parts is. A text
with a part that is not is not read at all. Doubt and denial (`suspected`, `no`, `?`, `status post`) and two lesions
at once leave the diagnosis undecided.
"""

import re
from dataclasses import dataclass
from typing import Final

from common.data.vocabulary.entities import CODES, EVERYTHING, code_of
from common.data.vocabulary.lexicon import ANY, HEADS, QUALIFIERS, Entry, Qualifier
from common.data.vocabulary.spelling import plain, stem

OPEN_WORD: Final = "open"
"""The code of entries that settle nothing."""
MELANOMAS: Final = CODES["mel"].entities
_IN_SITU = CODES["mel_in_situ"].entities
_LONGEST: Final = max(map(len, (*HEADS, *QUALIFIERS)))
_DEPTHS: Final = (
    "breslow|tumor ?dicke|tumou?r thickness|thickness|td|dicke|epaisseur|espesor|spessore|espessura|dikte|depth"
)
_GRADINGS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:(?:{_DEPTHS})(?: nach| of| by| de| di| index| thickness| depth| breslow)* ?)?"
        r"(?:less than |more than |at least |up to |ca |circa )?\d+(?:\.\d+)?(?: ?(?:to|bis|a) ?\d+(?:\.\d+)?)? ?(?:mm|cm)\b",
        rf"\b(?:{_DEPTHS})(?: nach| of| by| de| di| index| thickness| depth| breslow)* \d+(?:\.\d+)?\b",
        r"\b(?:clark )?(?:level|niveau|nivel|livello) (?:i{1,3}|iv|v|[1-5])\b|\bclark (?:i{1,3}|iv|v|[1-5])\b",
        r"\b(?:ajcc |uicc )?(?:stage|stadium|stade|estadio|estadiamento|stadio) (?:i{1,3}|iv)[abcd]?\b",
        r"\bp?t[1-4][ab]?\b|\bp?n[0-3][abc]?\b|\bc?m[01][abcd]?\b",
    )
)
"""Thickness, level and stage: they stand beside a malignant tumour and change nothing of what it is."""
_Phrase = Entry | tuple[Qualifier, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader made of a text."""

    could_be: frozenset[str]
    source: str


def read(text: str) -> Found | None:
    """What a text says whose every part is known; None where one is not, or where it names no lesion."""
    words = plain(text)
    graded = words
    for grading in _GRADINGS:
        graded = grading.sub(" ", graded)
    phrases = _phrases([stem(word) for word in graded.split()])
    heads = [phrase for phrase in phrases or () if isinstance(phrase, Entry)]
    if phrases is None or not heads:
        return None
    if any(head.code == OPEN_WORD for head in heads) or any(_hedges(phrase) for phrase in phrases):
        return Found(EVERYTHING, heads[0].source)
    parts = _fitting(phrases, ANY.union(CODES[head.code].coarse for head in heads))
    if parts is None or (graded != words and not _may_be_graded(heads)):
        return None
    return Found(
        _narrowed(_named(parts, heads), {part.effect for part in parts if isinstance(part, Qualifier)}), heads[0].source
    )


def _phrases(words: list[str]) -> list[_Phrase] | None:
    """The longest known phrases from left to right that cover all words; None where a word is not known."""
    phrases: list[_Phrase] = []
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            key = tuple(words[at : at + length])
            if phrase := HEADS.get(key) or QUALIFIERS.get(key):
                phrases.append(phrase)
                at += length
                break
        else:
            return None
    return phrases


def _hedges(phrase: _Phrase) -> bool:
    return isinstance(phrase, tuple) and any(qualifier.effect == "hedge" for qualifier in phrase)


def _fitting(phrases: list[_Phrase], classes: frozenset[str]) -> list[Entry | Qualifier] | None:
    """Each phrase in the sense that it has beside lesions of these classes; None where one has none."""
    parts: list[Entry | Qualifier] = []
    for phrase in phrases:
        senses = [phrase] if isinstance(phrase, Entry) else [sense for sense in phrase if sense.to & classes]
        if not senses:
            return None
        parts.extend(senses)
    return parts


def _may_be_graded(heads: list[Entry]) -> bool:
    return all(CODES[head.code].entities <= CODES["malignant"].entities for head in heads)


def _named(parts: list[Entry | Qualifier], heads: list[Entry]) -> frozenset[str]:
    """The entities of all names of lesions in a text."""
    turns = [part.code for part in parts if isinstance(part, Qualifier) and part.effect == "turn"]
    sets = [CODES[head.code].entities for head in heads]
    if turns:
        sets = [
            *(entities for entities in sets if entities != CODES["nv"].entities),
            *(CODES[t].entities for t in turns),
        ]
    elif _grew_in_naevus(parts):
        sets = [entities for entities in sets if entities <= MELANOMAS]
    decided = all(CODES[head.code].decided for head in heads)
    smallest = min(sets, key=len)
    if decided and all(smallest <= entities for entities in sets):
        return smallest
    return frozenset().union(*sets)


def _grew_in_naevus(parts: list[Entry | Qualifier]) -> bool:
    """Whether a melanoma comes before a word that joins it to the naevus after it."""
    links = [at for at, part in enumerate(parts) if isinstance(part, Qualifier) and part.effect == "link"]
    if not links:
        return False
    before = [CODES[part.code].entities for part in parts[: links[0]] if isinstance(part, Entry)]
    after = [CODES[part.code].entities for part in parts[links[0] :] if isinstance(part, Entry)]
    return (
        bool(before)
        and all(entities <= MELANOMAS for entities in before)
        and all(entities <= CODES["nv"].entities or entities <= MELANOMAS for entities in after)
    )


def _narrowed(entities: frozenset[str], effects: set[str]) -> frozenset[str]:
    if entities <= MELANOMAS:
        return _narrowed_melanoma(entities, effects)
    if entities <= CODES["scc"].entities and {"in situ", "invasive"} & effects:
        return frozenset({"bowen"}) if "invasive" not in effects else entities - {"bowen"}
    return entities


def _narrowed_melanoma(entities: frozenset[str], effects: set[str]) -> frozenset[str]:
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


def name_of(found: Found) -> str | None:
    """The code that a finding has, for the documentation."""
    code = code_of(found.could_be)
    return code.name if code else None
