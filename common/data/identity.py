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
        *("nichtbekannt", "nichtverfügbar", "nichtvorhanden", "ohneangabe", "leer", "entfällt", "geschwärzt"),
        *("nonconnu", "nondisponible", "nonrenseignée", "sansobjet", "masqué", "noconsta", "nodisponible", "sindato"),
        *("sindatos", "noidentificado", "nondisponibile", "nonnoto", "nonidentificato", "semdados", "nãoinformado"),
        *("nãodisponível", "ignorado", "nietbekend", "nietbeschikbaar", "geen", "geanonimiseerd"),
        *("anonimizado", "anonimizzato", "pseudonymisiert"),
    }
)
"""Words for "not known" in a column of ids, in lower case and without signs between the letters."""

_SHORT_MARKS: Final = frozenset(
    {
        *("k.a.", "k. a.", "k.a", "n.d.", "n/d", "s/d", "n.a.", "n.b.", "#nv", "#n/d", "\\n", "o.a.", "o. a.", "o.a"),
        *("n.v.", "n.v.t.", "n.c.", "n/c", "s.d.", "s/n", "n.r.", "n/k", "(n)"),
        *("#value!", "#ref!", "#name?", "#div/0!", "#null!", "#num!", "#wert!", "#bezug!", "#zahl!", "#valeur!"),
        *("#nom?", "#¡valor!", "#¡ref!", "#valor!", "#valore!", "#rif!", "#nome?", "#waarde!", "#verw!"),
    }
)
"""Those that without their signs could be a person's initials, MySQL's `\\N`, and errors of spreadsheets."""

_WHOLE_NUMBER: Final = re.compile(r"(\d+)(?:[.,](?!000$)0*)?")
"""`12`, `12.0`, `12,00`; three zeros may be a thousand."""
_SCIENTIFIC: Final = re.compile(r"(\d)(?:[.,](\d+))?e\+(\d{1,2})")
_NEGATIVE: Final = re.compile(r"-\s*\d+(?:[.,]0*)?")
_GROUPED: Final = re.compile(r"\d{1,3}(?:[.,' ’]\d{3})+")
_DATE: Final = re.compile(
    r"(?:19|20)\d\d-\d\d-\d\d(?:[ t]\d\d:\d\d(?::\d\d(?:\.0+)?)?)?"
    r"|\d{1,2}[./]\d{1,2}[./](?:\d\d){1,2}"
    r"|\d{1,2}[-. ](?:[a-zäéûç]{3,4}\.?)(?:[-. ](?:\d\d){1,2})?|(?:[a-zäéûç]{3,4}\.?)[-. ]\d\d"
)
_MONTHS: Final = frozenset(
    {
        *("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
        *("mrz", "mär", "märz", "mai", "okt", "dez", "janv", "févr", "mars", "avr", "juin", "juil", "août", "déc"),
        *("ene", "abr", "ago", "dic", "gen", "mag", "giu", "lug", "set", "ott", "fev", "mei", "mrt", "out"),
    }
)


@lru_cache(maxsize=1 << 16)
def normal_id(text: str | None) -> str | None:
    """Return an id in the one form that all its spellings have; None where it says that nothing is known.

    Compatible forms of a letter (full width, composed or not), case, spaces around, invisible characters, quotes,
    kinds of hyphen, and what spreadsheets and data frames do to numbers (`12.0`, `0012`, `1.2E+05`) make no difference.
    Numbers below zero, words such as `anonymous` and signs alone are no ids. Idempotent.

    What one id alone does not tell stays apart: `1,000` (a thousand, or 1), `P012` and `P12`; see `doubt`.

    >>> normal_id(" ０12.0 ") == normal_id("12")
    True
    """
    plain = _plain(text or "")
    if _NEGATIVE.fullmatch(plain):
        return None
    if whole := _WHOLE_NUMBER.fullmatch(plain):
        return whole[1].lstrip("0") or "0"
    if number := _scientific(plain):
        return number
    letters = "".join(character for character in plain if character.isalnum())
    if not letters or letters in _MARKS or plain in _SHORT_MARKS or (len(letters) > 1 and set(letters) == {"x"}):
        return None
    return plain


def doubt(text: str) -> str | None:
    """What a spreadsheet may have made of an id, so that it may be another one than was given; None where nothing.

    Nobody can undo it: `1.23E+11` has lost digits, and `3-Mar` was `3-3`, or `MAR3`.
    """
    plain = _plain(text)
    if _scientific(plain):
        return "in scientific notation, of which a spreadsheet drops digits"
    if _GROUPED.fullmatch(plain):
        return "with separators of thousands, and another spelling of the same number is another id"
    months = re.findall(r"[^\W\d_]+", plain)
    if _DATE.fullmatch(plain) and all(month in _MONTHS for month in months if month != "t"):
        return "dates, as a spreadsheet makes of ids such as 3-3"
    return None


def scoped_id(source: str, name: str) -> str:
    """Return the name of an id within a source: another source's equal id has another name.

    Case and Unicode form of the source make no difference, as they make none in ids.

    >>> scoped_id("Uni: Wien", "12")
    'uni%3A wien:12'
    """
    return f"{_plain(source).replace('%', '%25').replace(':', '%3A')}:{name}"


def _scientific(plain: str) -> str | None:
    """The digits of a whole number in scientific notation, as spreadsheets and data frames write long ids."""
    found = _SCIENTIFIC.fullmatch(plain)
    if found is None or len(decimals := (found[2] or "").rstrip("0")) > int(found[3]):
        return None
    return f"{found[1]}{decimals.ljust(int(found[3]), '0')}".lstrip("0") or "0"


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
