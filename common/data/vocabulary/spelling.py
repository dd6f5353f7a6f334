"""One form for the many spellings of a word, so that case, accents, plurals and British forms do not matter."""

import re
import unicodedata
from typing import Final

_LIGATURES = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "æ": "ae", "œ": "oe", "ø": "oe", "ð": "d", "þ": "th"})
_MARKS: Final = (
    # Abbreviations and pairs that hold a character which parts words.
    (re.compile(r"\band\s*/\s*or\b"), " and "),
    (re.compile(r"\bw\s*/\s*o\b"), " without "),
    (re.compile(r"\br\s*/\s*o\b"), " rule out "),
    (re.compile(r"\bs\s*/\s*p\b"), " status post "),
    (re.compile(r"\bd\s*/\s*d\b"), " differential diagnosis "),
    (re.compile(r"\bv\.\s*a\.|\bv\.?d\.\s*auf\b"), " verdacht auf "),
    (re.compile(r"\bz\.\s*n\."), " zustand nach "),
    (re.compile(r"(?<=\d),(?=\d)"), "."),
    (re.compile(r"['’`´]s?\b"), " "),
    (re.compile(r"&"), " and "),
    (re.compile(r"\?"), " ? "),
    (re.compile(r"(?<!\d)\.|\.(?!\d)"), " "),
    (re.compile(r"[^\w.?]+|_+"), " "),
)
_ENDINGS: Final = ("es", "en", "er", "em", "as", "os", "us", "um", "is", "ae", "a", "o", "e", "i", "s", "n")
_SHORTEST_STEM: Final = 4
"""Shorter ones meet by chance: `never` and `nevus`."""
_DECLENSIONS: Final = ("es", "en", "er", "em")
_VOWELS: Final = frozenset("aeiouy")


def plain(text: str) -> str:
    """The text in lower case without accents, with one blank between words; `?` stays a word of its own.

    Compatibility forms (full width, ligatures), invisible characters and umlauts are folded: `Nävus`, `Naevus` and
    `nævus` become `naevus`.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_LIGATURES)
    split = unicodedata.normalize("NFKD", folded)
    folded = "".join(sign for sign in split if unicodedata.category(sign) not in ("Mn", "Cf"))
    for pattern, mark in _MARKS:
        folded = pattern.sub(mark, folded)
    return " ".join(folded.split())


def stem(word: str) -> str:
    """A word of `plain` without its ending, with one form for British and American spelling.

    `melanomas` and `mélanome` have one stem, and so have `malignes` and `maligna`. Short words and
    abbreviations (`sccis`) keep their ending.
    """
    folded = word.replace("ae", "e").replace("oe", "e").replace("ue", "u").replace("tumour", "tumor")
    if not folded.isalpha():
        return folded
    short = next((left for ending in _ENDINGS if _is_stem(left := folded.removesuffix(ending), folded)), folded)
    if folded.removeprefix(short) in _DECLENSIONS and short[-2:] in _DECLENSIONS and _is_stem(short[:-2], short):
        return short[:-2]  # melanozytaer-er and -es, of an adjective that itself ends like a declension
    return short


def _is_stem(left: str, word: str) -> bool:
    return left != word and len(left) >= _SHORTEST_STEM and bool(_VOWELS & set(left))


def stems(text: str) -> tuple[str, ...]:
    """The stems of the words of any text, in their order."""
    return tuple(stem(word) for word in plain(text).split())
