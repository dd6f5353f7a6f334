"""What a cell of a table says: something unknown, a number, an age."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from melfed.common.data.tables.coded import Coded

OLDEST: Final = 120
"""Years; above, an age is a year of birth, a code for "not known" (999), or MIMIC's 300 for those over 89."""

_UNKNOWN: Final = frozenset(
    {
        *("", "unknown", "unk", "nan", "na", "n/a", "n.a.", "none", "null", "nil", "-", "--", "?", ".", "nat", "<na>"),
        *("#n/a", "#nv", "#n/d", "missing", "not available", "not known", "tbd", "undefined"),
        *("unbekannt", "k.a.", "k. a.", "keine angabe", "inconnu", "desconocido", "desconhecido", "sconosciuto"),
        *("onbekend", "okänd", "ukendt", "ukjent", "niet bekend", "n.v.t.", "geen", "niet beschikbaar"),
        *("nicht bekannt", "nicht verfügbar", "ohne angabe", "o.a.", "o. a.", "n.v.", "entfällt", "leer", "(null)"),
        *("non connu", "non connue", "non disponible", "non renseigné", "non renseignée", "sans objet", "n.c."),
        *("no disponible", "no consta", "sin datos", "sin dato", "non disponibile", "non noto", "n.d.", "n/d"),
        *("não informado", "não disponível", "sem dados", "ignorado", "\\n", "na_character_"),
        *("#value!", "#ref!", "#name?", "#div/0!", "#null!", "#num!", "#wert!", "#bezug!", "#zahl!", "#valeur!"),
        *("#valor!", "#valore!", "#waarde!"),
    }
)

LONGEST: Final = 4096
"""Characters of a cell that is read: a longer one holds a file, a letter, or lines whose quotes do not end."""

_LONG: Final = 64

_AGE: Final = re.compile(
    r"[<>≤≥~≈=+]*\s*(\d+(?:[.,]\d+)?)\s*\+?\s*"
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


def too_long(cells: Sequence[str | None]) -> list[int]:
    """Return the indices of cells that are longer than `LONGEST`."""
    different = cells.values if isinstance(cells, Coded) else cells
    if max(map(len, filter(None, different)), default=0) <= LONGEST:
        return []
    return [index for index, cell in enumerate(cells) if cell is not None and len(cell) > LONGEST]


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
