"""Words for sex in the languages of the clinics. What is neither male nor female is not known to the network."""

from typing import Final

from melfed.common.data.vocabulary.missing import says_nothing
from melfed.common.data.vocabulary.spelling import plain
from melfed.common.data.vocabulary.terms import Term

SEXES: Final = ("male", "female")
WORDS: Final = {
    "male": (
        "male | m | man | men | boy | masculine | mann | maennlich | maennl | knabe | junge | herr | homme | "
        "masculin | masc | garcon | hombre | varon | masculino | maschio | maschile | uomo | homem | "
        "mannelijk | jongen | h"
    ),
    "female": (
        "female | f | fem | woman | women | girl | feminine | frau | weiblich | weibl | w | maedchen | femme "
        "| feminin | fille | mujer | femenino | hembra | femmina | femminile | donna | mulher | feminino | "
        "vrouw | vrouwelijk | v | meisje"
    ),
}
"""The words of each, with ` | ` between them. `m` is male in all of these languages; `h` (hombre, homme) too."""
OTHER: Final = (
    "other | o | d | x | divers | diverse | non binary | nonbinary | intersex | inter | autre | otro | outro "
    "| altro | anders"
)
"""Words for neither; they are understood and are not known to the network. DICOM's O is one."""

_VALUES: Final = {plain(word): sex for sex, words in WORDS.items() for word in words.split("|")}
_OTHER: Final = frozenset(plain(word) for word in OTHER.split("|"))


def read_sex(word: str) -> Term[str]:
    """`male` or `female`; no value for anything else."""
    text = plain(word)
    if text in _VALUES:
        return Term(word.strip(), _VALUES[text], "known")
    if says_nothing(word) or text in _OTHER:
        return Term(word.strip(), None, "missing")
    return Term(word.strip(), None, "unknown")
