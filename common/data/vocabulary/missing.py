"""Cells that say nothing, in the languages of the clinics."""

from typing import Final

from melfed.common.data.vocabulary.spelling import plain

MISSING: Final = (
    "unknown | unk | unkn | nan | na | n a | none | null | nil | nos | not known | not available | not "
    "applicable | not specified | unspecified | missing | other | others | oth | misc | miscellaneous | "
    "various | undefined | undetermined | no diagnosis | diagnosis | without diagnosis | pending | tbd | to "
    "be determined | unbekannt | keine angabe | ka angabe | k a | sonstige | sonstiges | andere | inconnu | "
    "inconnue | autre | autres | non precise | desconocido | desconhecido | otro | otros | outro | outros | "
    "sin datos | sem dados | sconosciuto | altro | altri | non noto | onbekend | overig | overige | anders | "
    "x | xx | xxx"
)
MISSING_WORDS: Final = frozenset(plain(word) for word in MISSING.split("|"))
"""The same in the form of `spelling.plain`."""


def says_nothing(word: str) -> bool:
    """Whether a cell is empty, a dash, a question mark, or one of the words above."""
    text = plain(word)
    return not text.strip("? ") or text in MISSING_WORDS
