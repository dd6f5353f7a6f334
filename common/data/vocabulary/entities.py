"""The lesions that melfed tells apart, and the codes that tables and studies name them by.

An *entity* is the finest thing that is told apart. A *code* is a name for a set of entities: `mel` is every melanoma,
`bowen` is one entity, `akiec` is what HAM10000 calls so. What a table says about a lesion is the set of entities that
it can be, so that "is it a positive of this study?" has three answers: yes, no, and the table does not say.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from melfed.common.errors import DataError

ENTITIES: Final = {
    "mel_invasive": "invasive melanoma of the skin or a mucosa",
    "mel_in_situ_other": "melanoma in situ that is no lentigo maligna",
    "lentigo_maligna": "melanoma in situ of chronically sun-damaged skin",
    "mel_metastasis": "metastasis of a melanoma",
    "mel_ocular": "melanoma of the eye",
    "nv": "melanocytic naevus, with atypical, blue, Spitz and Reed naevi and dermal melanocytosis",
    "bcc": "basal cell carcinoma",
    "ak": "actinic keratosis, actinic cheilitis",
    "bowen": "squamous cell carcinoma in situ, Bowen's disease",
    "scc_invasive": "invasive squamous cell carcinoma",
    "ka": "keratoacanthoma",
    "sk": "seborrheic keratosis",
    "solar_lentigo": "solar lentigo",
    "lplk": "lichen planus-like keratosis",
    "df": "dermatofibroma",
    "vasc": "benign vascular lesion or haemorrhage",
    "ben_oth": "any other benign lesion, naevi that are not melanocytic among them",
    "inf": "inflammatory, infectious or genetic skin disease without a tumour",
    "other_malignant": "any other malignant tumour: lymphoma, sarcoma, Merkel cell carcinoma ...",
    "collision": "collision of several lesions of which at least one is malignant, and nobody says which",
}
"""Every entity with what it is."""

OPEN: Final = frozenset({"collision"})
"""Entities that may hide a positive: a lesion that can be one of them is no negative."""

EVERYTHING: Final = frozenset(ENTITIES)
_MELANOMAS = frozenset({"mel_invasive", "mel_in_situ_other", "lentigo_maligna", "mel_metastasis", "mel_ocular"})
_BENIGN = frozenset({"nv", "sk", "solar_lentigo", "lplk", "df", "vasc", "ben_oth", "inf"})
_MALIGNANT = _MELANOMAS | {"bcc", "bowen", "scc_invasive", "ka", "other_malignant", "collision"}


@dataclass(frozen=True, slots=True)
class Code:
    """A name for a set of entities."""

    name: str
    entities: frozenset[str]
    text: str
    """What it is, in words."""
    coarse: str
    """The class that reports count it under."""
    decided: bool = True
    """False for diagnoses that are themselves open: no study can ask for them."""


def _code(name: str, entities: Iterable[str], text: str, coarse: str | None = None, decided: bool = True) -> Code:
    return Code(name, frozenset(entities), text, coarse or name, decided)


CODES: Final = {
    code.name: code
    for code in (
        _code("mel", _MELANOMAS, "melanoma, whatever its kind"),
        _code("mel_invasive", {"mel_invasive"}, ENTITIES["mel_invasive"], "mel"),
        _code("mel_in_situ", {"mel_in_situ_other", "lentigo_maligna"}, "melanoma in situ, with lentigo maligna", "mel"),
        _code("lentigo_maligna", {"lentigo_maligna"}, ENTITIES["lentigo_maligna"], "mel"),
        _code("mel_metastasis", {"mel_metastasis"}, ENTITIES["mel_metastasis"], "mel"),
        _code("mel_ocular", {"mel_ocular"}, ENTITIES["mel_ocular"], "mel"),
        _code("nv", {"nv"}, ENTITIES["nv"]),
        _code("benign_melanocytic", {"nv", "ben_oth"}, "benign melanocytic proliferation, a naevus as a rule", "nv"),
        _code("bcc", {"bcc"}, ENTITIES["bcc"]),
        _code("ak", {"ak"}, ENTITIES["ak"]),
        _code("akiec", {"ak", "bowen"}, "actinic keratosis or squamous cell carcinoma in situ (HAM10000, ISIC 2018)"),
        _code("bowen", {"bowen"}, ENTITIES["bowen"], "scc"),
        _code("scc", {"bowen", "scc_invasive", "ka"}, "squamous cell carcinoma, in situ or invasive, keratoacanthoma"),
        _code("scc_invasive", {"scc_invasive"}, ENTITIES["scc_invasive"], "scc"),
        _code("ka", {"ka"}, ENTITIES["ka"], "scc"),
        _code("sccka", {"scc_invasive", "ka"}, "invasive squamous cell carcinoma or keratoacanthoma (MILK10k)", "scc"),
        _code(
            "malignant_keratinocytic",
            {"bcc", "scc_invasive", "ka"},
            "basal or squamous cell carcinoma, invasive",
            "scc",
        ),
        _code(
            "malignant_epidermal",
            {"bcc", "bowen", "scc_invasive", "ka", "other_malignant"},
            "cancer of the skin that is no melanoma (Fitzpatrick17k, ICD-10 C44)",
            "mal_oth",
        ),
        _code(
            "bkl", {"sk", "solar_lentigo", "lplk"}, "benign keratosis: seborrheic, lichen planus-like, solar lentigo"
        ),
        _code("sk", {"sk"}, ENTITIES["sk"], "bkl"),
        _code("lplk", {"lplk"}, ENTITIES["lplk"], "bkl"),
        _code("solar_lentigo", {"solar_lentigo"}, ENTITIES["solar_lentigo"], "bkl"),
        _code(
            "lentigo", {"solar_lentigo", "ben_oth"}, "lentigo whose kind is not said, not lentigo maligna", "ben_oth"
        ),
        _code("df", {"df"}, ENTITIES["df"]),
        _code("vasc", {"vasc"}, ENTITIES["vasc"]),
        _code("ben_oth", {"ben_oth"}, ENTITIES["ben_oth"]),
        _code("inf", {"inf"}, ENTITIES["inf"]),
        _code(
            "mal_oth", {"other_malignant", "collision"}, "other malignant lesion (MILK10k, whose nine are collisions)"
        ),
        _code("other_malignant", {"other_malignant"}, ENTITIES["other_malignant"], "mal_oth"),
        _code("benign_epidermal", {"sk", "solar_lentigo", "lplk", "ben_oth"}, "benign epidermal proliferation", "bkl"),
        _code("benign_fibrous", {"df", "ben_oth"}, "benign fibro-histiocytic proliferation", "ben_oth"),
        _code("benign", _BENIGN, "benign, and nothing more is said"),
        _code("malignant", _MALIGNANT, "malignant, and nothing more is said: a melanoma or not"),
        _code(
            "melanocytic",
            _MELANOMAS | {"nv"},
            "melanocytic lesion of uncertain behaviour (MELTUMP, AIMP)",
            decided=False,
        ),
        _code("indeterminate", _MELANOMAS | {"nv", "ak"}, "indeterminate, and nothing more is said", decided=False),
        _code("collision", {"collision"}, ENTITIES["collision"], decided=False),
        _code(
            "metastasis",
            {"mel_metastasis", "other_malignant"},
            "metastasis of a tumour that is not said",
            decided=False,
        ),
    )
}
"""Every code by its name."""


def positive_entities(names: Sequence[str]) -> frozenset[str]:
    """The entities that a study's `data.positive` asks for.

    Args:
        names: codes (`mel`, `mel_in_situ`, `bcc` ...), in any case. They are judged against the vocabulary alone,
            never against the words that occur in somebody's data.

    Raises:
        DataError: a name is no code that a study can ask for, or all names together leave no negative.
    """
    known = {name for name, code in CODES.items() if code.decided}
    entities: set[str] = set()
    if not names:
        raise DataError("positive: no diagnosis is named; name one, as [mel]")
    for name in names:
        plain = name.strip().lower()
        if plain not in known:
            raise DataError(
                f"positive: no diagnosis is called '{name}'{_near(plain, known)}; known are {_listed(known)}"
            )
        entities |= CODES[plain].entities
    if entities >= EVERYTHING:
        raise DataError("positive: every diagnosis is a positive, so there is nothing to tell apart; take one out")
    return frozenset(entities)


def code_of(entities: frozenset[str]) -> Code | None:
    """The smallest code that holds all these entities; None where none does or nothing is left."""
    fits = [code for code in CODES.values() if entities <= code.entities] if entities else []
    return min(fits, key=lambda code: len(code.entities), default=None)


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _listed(known: Iterable[str]) -> str:
    return ", ".join(name for name in CODES if name in set(known))
