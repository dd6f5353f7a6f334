"""What a cell of a table says: something unknown, a number, an age."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

OLDEST: Final = 120
"""Years; above, an age is a year of birth, a code for "not known" (999), or MIMIC's 300 for those over 89."""

_UNKNOWN: Final = frozenset(
    {
        *("", "unknown", "unk", "nan", "na", "n/a", "n.a.", "none", "null", "nil", "-", "--", "?", ".", "nat", "<na>"),
        *("#n/a", "#nv", "#n/d", "missing", "not available", "not known", "tbd", "undefined"),
        *("unbekannt", "k.a.", "k. a.", "keine angabe", "inconnu", "desconocido", "desconhecido", "sconosciuto"),
        *("onbekend", "okänd", "ukendt", "ukjent"),
    }
)

_LONG: Final = 64

_AGE: Final = re.compile(
    r"[<>≤≥~≈=+]*\s*0*(\d+(?:[.,]\d+)?)\s*\+?\s*"
    r"(y|yr|yrs|year|years|years old|yo|y/o|j|jahr|jahre|jahren|a|an|ans|año|años|anni|anos|jaar|år|let|lat)?\.?"
)
_DICOM_AGE: Final = re.compile(r"(\d{1,3})([dwm])")
_PER_YEAR: Final = {"d": 365.25, "w": 365.25 / 7, "m": 12.0}


def folded(text: str) -> str:
    """Return a text in lower case, compatible letters in one form, with single spaces."""
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.split())


def is_unknown(text: str) -> bool:
    """Whether a cell says that nothing is known.

    >>> is_unknown(" N/A "), is_unknown("nevus")
    (True, False)
    """
    return len(text) < _LONG and folded(text) in _UNKNOWN


@lru_cache(maxsize=1 << 12)
def read_age(text: str) -> float | None:
    """Return an age in years; None where the cell holds none that a person can have.

    Read are plain numbers (`45`, `45,5`), bounds (`>90`, `85+`), units (`60 years`, `60 J.`) and DICOM's age strings
    (`060Y`, `018M`). A year of birth, `999`, a range or a negative number is no age.

    >>> read_age("45,5"), read_age("060Y"), read_age(">90"), read_age("018M"), read_age("1960")
    (45.5, 60.0, 90.0, 1.5, None)
    """
    plain = folded(text)
    if found := _AGE.fullmatch(plain):
        age = float(found[1].replace(",", "."))
    elif found := _DICOM_AGE.fullmatch(plain):
        age = int(found[1]) / _PER_YEAR[found[2]]
    else:
        return None
    return age if age <= OLDEST else None


@lru_cache(maxsize=1 << 10)
def read_binary(text: str) -> int | None:
    """Return a cell that is 0 or 1 (also `0.0`, `1,0`, `true`, `False`); None for anything else."""
    plain = folded(text)
    if plain in ("true", "false"):
        return int(plain == "true")
    found = re.fullmatch(r"([01])(?:[.,]0*)?", plain)
    return int(found[1]) if found else None
