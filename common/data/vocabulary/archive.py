"""The hierarchy of diagnoses of the ISIC archive, as its own package `isic-metadata` holds it.

The package knows 418 diagnoses in branches of up to five levels; what melfed adds is which branch is which class.
"""

from functools import cache
from typing import Final

from isic_metadata.diagnosis_hierarchical import DiagnosisEnum

from melfed.common.data.vocabulary.compose import Found
from melfed.common.data.vocabulary.entities import CODES
from melfed.common.data.vocabulary.spelling import plain

_FOLLICULAR: Final = "Malignant:Malignant adnexal epithelial proliferations - Follicular"
BRANCHES: Final = {
    "Benign": "benign",
    "Benign:Benign - Other": "ben_oth",
    "Benign:Benign adnexal epithelial proliferations - Apocrine or Eccrine": "ben_oth",
    "Benign:Benign adnexal epithelial proliferations - Follicular": "ben_oth",
    "Benign:Benign adnexal epithelial proliferations - Sebaceous": "ben_oth",
    "Benign:Benign epidermal proliferations": "benign_epidermal",
    "Benign:Benign epidermal proliferations:Acantholytic acanthoma": "ben_oth",
    "Benign:Benign epidermal proliferations:Clear cell acanthoma": "ben_oth",
    "Benign:Benign epidermal proliferations:Epidermal nevus": "ben_oth",
    "Benign:Benign epidermal proliferations:Epidermolytic acanthoma": "ben_oth",
    "Benign:Benign epidermal proliferations:Large cell acanthoma": "ben_oth",
    "Benign:Benign epidermal proliferations:Lichen planus like keratosis": "lplk",
    "Benign:Benign epidermal proliferations:Melanoacanthoma": "ben_oth",
    "Benign:Benign epidermal proliferations:Pigmented benign keratosis": "bkl",
    "Benign:Benign epidermal proliferations:Porokeratosis": "ben_oth",
    "Benign:Benign epidermal proliferations:Seborrheic keratosis": "sk",
    "Benign:Benign epidermal proliferations:Solar lentigo": "solar_lentigo",
    "Benign:Benign melanocytic proliferations": "benign_melanocytic",
    "Benign:Benign melanocytic proliferations:Dermal melanocytosis": "nv",
    "Benign:Benign melanocytic proliferations:Lentigo simplex": "ben_oth",
    "Benign:Benign melanocytic proliferations:Nevus": "nv",
    "Benign:Benign melanocytic proliferations:Pigmented epithelioid melanocytoma": "nv",
    "Benign:Benign melanocytic proliferations:Proliferative nodule in congenital melanocytic nevi without atypia": "nv",
    "Benign:Benign soft tissue proliferations - Adipocytic": "ben_oth",
    "Benign:Benign soft tissue proliferations - Cartilagenous and ossifying": "ben_oth",
    "Benign:Benign soft tissue proliferations - Fibro-histiocytic": "benign_fibrous",
    "Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma": "df",
    "Benign:Benign soft tissue proliferations - Muscle tissue or myofibroblastic": "ben_oth",
    "Benign:Benign soft tissue proliferations - Myoepithelial": "ben_oth",
    "Benign:Benign soft tissue proliferations - Neural": "ben_oth",
    "Benign:Benign soft tissue proliferations - Vascular": "vasc",
    "Benign:Collision - Only benign proliferations": "benign",
    "Benign:Cysts": "ben_oth",
    "Benign:Exogenous": "ben_oth",
    "Benign:Flat melanotic pigmentations - not melanocytic nevus": "lentigo",
    "Benign:Hemorrhagic lesions": "vasc",
    "Benign:Inflammatory or infectious diseases": "inf",
    "Benign:Langerhans cell proliferations": "ben_oth",
    "Benign:Mast cell proliferations": "ben_oth",
    "Indeterminate": "indeterminate",
    "Indeterminate:Indeterminate epidermal proliferations": "ak",
    "Indeterminate:Indeterminate melanocytic proliferations": "melanocytic",
    "Malignant": "malignant",
    "Malignant:Collision - At least one malignant proliferation": "collision",
    "Malignant:Lymphocytic proliferations - B-Cell": "other_malignant",
    "Malignant:Lymphocytic proliferations - T-Cell/NK": "other_malignant",
    "Malignant:Malignant adnexal epithelial proliferations - Apocrine or Eccrine": "other_malignant",
    _FOLLICULAR: "malignant_epidermal",
    f"{_FOLLICULAR}:Basal cell carcinoma": "bcc",
    f"{_FOLLICULAR}:Baso-squamous carcinoma": "malignant_keratinocytic",
    f"{_FOLLICULAR}:Matrical or pilomatrical carcinoma": "other_malignant",
    f"{_FOLLICULAR}:Proliferating trichilemmal carcinoma": "other_malignant",
    "Malignant:Malignant adnexal epithelial proliferations - Sebaceous": "other_malignant",
    "Malignant:Malignant epidermal proliferations": "scc",
    "Malignant:Malignant epidermal proliferations:Bowenoid papulosis": "bowen",
    "Malignant:Malignant epidermal proliferations:Keratoacanthoma": "ka",
    "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma in situ": "bowen",
    "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, Invasive": "scc_invasive",
    "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, NOS": "scc",
    "Malignant:Malignant epidermal proliferations:Verrucous carcinoma": "scc_invasive",
    "Malignant:Malignant melanocytic proliferations (Melanoma)": "mel",
    "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma Invasive": "mel_invasive",
    "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma in situ": "mel_in_situ",
    "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma in situ:Melanoma in situ, Lentigo "
    "maligna type": "lentigo_maligna",
    "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma metastasis": "mel_metastasis",
    "Malignant:Malignant soft tissue proliferations - Adipocytic": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Cartilagenous and ossifying": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Fibro-histiocytic": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Muscle tissue or myofibroblastic": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Myoepithelial": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Neural": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Unknown or other histiogenesis": "other_malignant",
    "Malignant:Malignant soft tissue proliferations - Vascular": "other_malignant",
    "Malignant:Merkel cell proliferation": "other_malignant",
    "Malignant:Skin metastasis of internal solid cancer - non-hematological": "other_malignant",
}
"""The code of a branch and of everything below it that has no code of its own."""


def read(text: str) -> Found | None:
    """What a name of the archive means, alone or as its whole path (`Malignant:...` or `Malignant::...`)."""
    path = ":".join(part for part in text.split(":") if part.strip()) if ":" in text else text
    code = names().get(plain(path))
    return Found(CODES[code].entities, "archive") if code else None


@cache
def names() -> dict[str, str]:
    """The code of every name and every path of the archive, by `spelling.plain` of it."""
    found: dict[str, str] = {}
    for path in sorted((member.value for member in DiagnosisEnum), key=lambda value: value.count(":")):
        if code := branch_code(path):
            found.setdefault(plain(path.rsplit(":", maxsplit=1)[-1]), code)
            found[plain(path)] = code
    return found


def branch_code(path: str) -> str | None:
    """The code of the nearest branch above a path; None where the archive has a branch that this page lacks."""
    levels = path.split(":")
    if len(levels) > 1 and ":".join(levels[:2]) not in BRANCHES:
        return None
    return next((code for end in range(len(levels), 0, -1) if (code := BRANCHES.get(":".join(levels[:end])))), None)
