"""Who is whom in a table: ids of patients and lesions, written as one person's are again and again.

An id is *normalised*, so that no spelling splits a person (`12`, `12.0`, ` 0012`; `P–7`, and `p-7` in full-width
letters), and *scoped*, so that two clinics that both number their patients from 1 are not mixed. Both look at one id
alone: no row changes what another row's id means.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

_MARKS: Final = frozenset(
    {
        *("na", "nan", "nat", "null", "none", "nil", "tbd", "missing", "undefined", "empty"),
        *("unknown", "unk", "unknownpatient", "notknown", "notavailable", "notapplicable", "notgiven", "noid"),
        *("nopatient", "withheld", "redacted", "removed", "deleted", "hidden", "masked"),
        *("anonymous", "anonymouspatient", "anon", "anonymized", "anonymised", "deidentified", "pseudonym"),
        *("anonym", "anonymisiert", "unbekannt", "keine", "keineangabe", "fehlt", "entfernt"),
        *("inconnu", "inconnue", "anonyme", "anonymise", "anonymisé", "nonrenseigne", "nonrenseigné"),
        *("desconocido", "desconocida", "desconhecido", "anonimo", "anónimo", "anônimo", "sconosciuto", "ignoto"),
        *("onbekend", "anoniem", "okänd", "ukendt", "ukjent", "nieznany", "neznámý", "ismeretlen", "bilinmiyor"),
    }
)
"""Words for "not known" in a column of ids, in lower case and without signs between the letters."""

_SHORT_MARKS: Final = frozenset({"k.a.", "k. a.", "k.a", "n.d.", "n/d", "s/d", "n.a.", "n.b.", "#nv", "#n/d"})
"""Those that without their signs could be a person's initials."""

_WHOLE_NUMBER: Final = re.compile(r"0*(\d+)(?:[.,]0*)?")
_LARGE_FLOAT: Final = re.compile(r"\d(?:[.,]\d+)?e\+\d+")
_NEGATIVE: Final = re.compile(r"-\s*\d+(?:[.,]0*)?")


@lru_cache(maxsize=1 << 16)
def normal_id(text: str | None) -> str | None:
    """Return an id in the one form that all its spellings have; None where it says that nothing is known.

    Compatible forms of a letter (full width, composed or not), case, spaces around, invisible characters, quotes,
    kinds of hyphen, and what spreadsheets and data frames do to numbers (`12.0`, `0012`) make no difference. Numbers
    below zero, words such as `anonymous` and signs alone are no ids. Idempotent.

    >>> normal_id(" ０12.0 ") == normal_id("12")
    True
    """
    plain = _plain(text or "")
    if _NEGATIVE.fullmatch(plain):
        return None
    if whole := _WHOLE_NUMBER.fullmatch(plain):
        return whole[1]
    if _LARGE_FLOAT.fullmatch(plain):  # how a data frame writes an id of 17 digits, once a cell is empty
        return f"{float(plain.replace(',', '.')):.0f}"
    letters = "".join(character for character in plain if character.isalnum())
    if not letters or letters in _MARKS or plain in _SHORT_MARKS or (len(letters) > 1 and set(letters) == {"x"}):
        return None
    return plain


def scoped_id(source: str, name: str) -> str:
    """Return the name of an id within a source: another source's equal id has another name.

    Case and Unicode form of the source make no difference, as they make none in ids.

    >>> scoped_id("Uni: Wien", "12")
    'uni%3A wien:12'
    """
    return f"{_plain(source).replace('%', '%25').replace(':', '%3A')}:{name}"


def _plain(text: str) -> str:
    """The text folded to one form of each letter, without what cannot be seen."""
    while (folded := _folded(text)) != text:  # a fold can make something that the next one folds again
        text = folded
    return text


def _folded(text: str) -> str:
    composed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = "".join(_visible(character) for character in composed)
    return " ".join(visible.split()).strip("'\"`´‘’“”„ ")


@lru_cache(maxsize=1 << 12)
def _visible(character: str) -> str:
    """The character, one of those that look the same to whoever types an id, or nothing."""
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    if "\N{VARIATION SELECTOR-1}" <= character <= "\N{VARIATION SELECTOR-16}":
        return ""
    return "" if category in ("Cf", "Cc") and not character.isspace() else character
