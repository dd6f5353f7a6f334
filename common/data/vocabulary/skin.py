"""Skin types on Fitzpatrick's scale of I to VI, and the other scales that tables give, brought to it.

Other scales measure the colour of the skin, Fitzpatrick's the way it burns and tans; the correspondence is the usual
one by individual typology angle (ITA), and an approximation.
"""

import math
import re
from typing import Final

from melfed.common.data.vocabulary.missing import says_nothing
from melfed.common.data.vocabulary.spelling import plain
from melfed.common.data.vocabulary.terms import Term

FITZPATRICK: Final = ("I", "II", "III", "IV", "V", "VI")
ITA_LIMITS: Final = (55.0, 41.0, 28.0, 10.0, -30.0)
"""Degrees above which a skin is very light, light, intermediate, tan, brown; at most the last, it is dark."""
MONK: Final = (1, 1, 1, 1, 2, 4, 5, 6, 6, 6)
"""Fitzpatrick's type for the Monk scale's tones 1 to 10, by the ITA of its published colours."""
_NAMES: Final = re.compile(
    r"(?:fitzpatrick|fitspatrick|fst|fp|skin|haut|photo|type|typ|tipo|phototype|fototipo|phototyp|hauttyp|\s)*"
)
_ROMAN: Final = {numeral.lower(): number for number, numeral in enumerate(FITZPATRICK, 1)}
_NOT_GIVEN: Final = frozenset({"-1", "0", "0.0", "-1.0", "9", "99"})


def read_fitzpatrick(word: str) -> Term[int]:
    """1 to 6, from `III`, `3`, `3.0`, `type III`, `Fitzpatrick 3`; no value for two types at once (`12`, `II-III`).

    -1 and 0 are how published tables write that it is not known.
    """
    text = plain(word)
    if word.strip() in _NOT_GIVEN or says_nothing(word):
        return Term(word.strip(), None, "missing")
    bare = text[_match_end(text) :]
    number = _ROMAN.get(bare) or _whole_number(bare)
    if number is not None and 1 <= number <= len(FITZPATRICK):
        return Term(word.strip(), number, "known")
    return Term(word.strip(), None, "unknown")


def read_ita(word: str) -> Term[int]:
    """1 to 6 from an individual typology angle in degrees."""
    try:
        angle = float(word.replace(",", "."))
    except ValueError:
        angle = math.nan
    if not -90 <= angle <= 90:
        return Term(word.strip(), None, "missing" if says_nothing(word) else "unknown")
    return Term(word.strip(), 1 + sum(angle <= limit for limit in ITA_LIMITS), "known")


def read_monk(word: str) -> Term[int]:
    """1 to 6 from a tone of the Monk scale (`1` to `10`, `MST 7`)."""
    return _from_steps(word, r"(?:mst|monk|tone|scale|skin|\s)*", dict(enumerate(MONK, 1)))


def read_milk10k(word: str) -> Term[int]:
    """1 to 6 from MILK10k's `skin_tone_class`: 0 is very dark, 5 very light."""
    return _from_steps(word, "", {tone: len(FITZPATRICK) - tone for tone in range(len(FITZPATRICK))})


def _from_steps(word: str, names: str, types: dict[int, int]) -> Term[int]:
    text = plain(word)
    number = _whole_number(re.sub(f"^{names}", "", text))
    if number in types:
        return Term(word.strip(), types[number], "known")
    return Term(word.strip(), None, "missing" if says_nothing(word) else "unknown")


def _match_end(text: str) -> int:
    match = _NAMES.match(text)
    return match.end() if match else 0


def _whole_number(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,2})(?:\.0+)?", text)
    return int(match[1]) if match else None
