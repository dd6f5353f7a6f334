"""Diagnoses written as codes: ICD-10 (WHO, ICD-10-CM, ICD-10-GM), ICD-11, and ICD-O-3 morphology.

German records put a letter for certainty after a code: G (certain), V (suspected), A (ruled out), Z (state after);
all but G leave the diagnosis undecided.
"""

import re
from typing import Final

from melfed.common.data.vocabulary.compose import Found
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING

_ICD10: Final = re.compile(
    r"(?:ICD[- ]?10(?:[- ]?(?:CM|GM|WHO))?[:\s]*)?([A-Z]\d[\dA-Z])(?:\.?([\dA-Z]{1,4}|[-*X]))?(?:\.?[-*])?"
    r"\s*([GVAZ])?[*+!]?"
)
_ICDO: Final = re.compile(r"(?:ICD[- ]?O(?:[- ]?3(?:\.\d)?)?[:\s]*)?M?[- ]?([89]\d{3})(?:\s*[/-]\s*(\d)|(\d))?")
_ICD11: Final = re.compile(r"(?:ICD[- ]?11[:\s]*)?(2[CEF]\d[\dA-Z])(?:\.([\dA-Z]{1,2}))?")
_BEFORE: Final = re.compile(r"(?P<code>[A-Za-z]?\d[\w./-]{2,8}(?: [GVAZ](?=\W))?)[\s:;,)-]+(?P<words>\D.*)")
_AFTER: Final = re.compile(r"(?P<words>.*\D)[\s:;,(-]+(?P<code>[A-Za-z]?\d[\w./-]{2,8}(?: [GVAZ])?)\)?")

ICD10: Final = {
    "C43": ("mel_invasive", "malignant melanoma of skin"),
    "C4A": ("other_malignant", "Merkel cell carcinoma (ICD-10-CM)"),
    "C44": ("malignant_epidermal", "other malignant neoplasms of skin"),
    "C46": ("other_malignant", "Kaposi sarcoma"),
    "C69": ("eye", "malignant neoplasm of eye: a melanoma or not"),
    "C792": ("metastasis", "secondary malignant neoplasm of skin"),
    "C82": ("other_malignant", "follicular lymphoma"),
    "C83": ("other_malignant", "non-follicular lymphoma"),
    "C84": ("other_malignant", "mature T/NK-cell lymphoma, mycosis fungoides"),
    "C85": ("other_malignant", "other non-Hodgkin lymphoma"),
    "D03": ("mel_in_situ", "melanoma in situ"),
    "D04": ("bowen", "carcinoma in situ of skin"),
    "D170": ("ben_oth", "lipoma"),
    "D171": ("ben_oth", "lipoma"),
    "D172": ("ben_oth", "lipoma"),
    "D173": ("ben_oth", "lipoma"),
    "D180": ("vasc", "haemangioma"),
    "D181": ("vasc", "lymphangioma"),
    "D22": ("nv", "melanocytic naevi"),
    "D23": ("benign", "other benign neoplasms of skin"),
    "D485": ("open", "neoplasm of uncertain behaviour of skin"),
    "D492": ("open", "neoplasm of unspecified behaviour of skin (ICD-10-CM)"),
    "L57": ("ak_or_inf", "skin changes by chronic exposure to radiation"),
    "L570": ("ak", "actinic keratosis"),
    "L72": ("ben_oth", "follicular cysts"),
    "L812": ("ben_oth", "freckles"),
    "L813": ("ben_oth", "cafe au lait spots"),
    "L814": ("lentigo", "lentigo and other melanin hyperpigmentation"),
    "L82": ("sk", "seborrhoeic keratosis"),
    "L980": ("vasc", "pyogenic granuloma"),
    "Z08": ("open", "follow-up examination after treatment for malignant neoplasm"),
    "Z12": ("open", "special screening for neoplasms"),
    "Z80": ("open", "family history of malignant neoplasm"),
    "Z85": ("open", "personal history of malignant neoplasm"),
    "Z86": ("open", "personal history of other diseases"),
    "B07": ("inf", "viral warts"),
    "B081": ("inf", "molluscum contagiosum"),
    "Q825": ("benign", "congenital non-neoplastic naevus"),
    "I781": ("vasc", "naevus araneus"),
}
"""Beginnings of codes of ICD-10, without the point: the longest that fits decides."""
ICD10_CM_C44: Final = {"1": "bcc", "2": "scc"}
"""The second place after the point of ICD-10-CM's C44: basal or squamous cell carcinoma."""
ICD11: Final = {
    "2C30": ("mel_invasive", "melanoma of skin"),
    "2C31": ("scc", "squamous cell carcinoma of skin"),
    "2C32": ("bcc", "basal cell carcinoma of skin"),
    "2C34": ("other_malignant", "cutaneous neuroendocrine carcinoma"),
    "2E63": ("mel_in_situ", "melanoma in situ"),
    "2F20": ("nv", "melanocytic naevus"),
}
ICDO_MELANOCYTIC: Final = {
    "0": ("nv", "benign"),
    "1": ("melanocytic", "uncertain whether benign or malignant"),
    "2": ("mel_in_situ", "in situ"),
    "3": ("mel_invasive", "malignant, primary site"),
    "6": ("mel_metastasis", "malignant, metastatic site"),
    "9": ("mel", "malignant, uncertain whether primary or metastatic"),
}
"""The behaviour of morphologies 8720 to 8790: naevi and melanomas."""
ICDO: Final = {
    "8742/2": ("lentigo_maligna", "lentigo maligna"),
    "8741/2": ("lentigo_maligna", "precancerous melanosis"),
    "8728/0": ("open", "diffuse melanocytosis of the meninges"),
    "8728/1": ("open", "meningeal melanocytoma"),
    "8728/3": ("open", "meningeal melanomatosis"),
    "8070/2": ("bowen", "squamous cell carcinoma in situ"),
    "8081/2": ("bowen", "Bowen disease"),
    "8070/3": ("scc_invasive", "squamous cell carcinoma"),
    "8071/3": ("scc_invasive", "squamous cell carcinoma, keratinizing"),
    "8090/3": ("bcc", "basal cell carcinoma"),
    "8091/3": ("bcc", "superficial basal cell carcinoma"),
    "8092/3": ("bcc", "infiltrating basal cell carcinoma"),
    "8093/3": ("bcc", "fibroepithelial basal cell carcinoma"),
    "8097/3": ("bcc", "nodular basal cell carcinoma"),
    "8247/3": ("other_malignant", "Merkel cell carcinoma"),
    "8830/0": ("df", "benign fibrous histiocytoma"),
    "8832/0": ("df", "dermatofibroma"),
    "8832/3": ("other_malignant", "dermatofibrosarcoma protuberans"),
    "9120/0": ("vasc", "haemangioma"),
    "9140/3": ("other_malignant", "Kaposi sarcoma"),
}
_MELANOCYTIC = range(8720, 8800)
_SETS: Final = {
    "open": EVERYTHING,
    "eye": frozenset({"mel_ocular", "other_malignant"}),
    "ak_or_inf": frozenset({"ak", "inf", "ben_oth"}),
}


def read(text: str) -> Found | None:
    """What a code says; None where the text is no code or not one of these."""
    code = " ".join(text.upper().split())
    if (match := _ICD10.fullmatch(code)) and (found := _icd10(match[1] + (match[2] or "").strip("-*X"), match[3])):
        return found
    if match := _ICDO.fullmatch(code):
        return _icdo(match[1], match[2] or match[3])
    if (match := _ICD11.fullmatch(code)) and match[1] in ICD11:
        return Found(CODES[ICD11[match[1]][0]].entities, "icd11")
    return None


def split(text: str) -> tuple[str, str]:
    """A code before or after other words, and those words; `"", text` where there is none."""
    for pattern in (_BEFORE, _AFTER):
        if (match := pattern.fullmatch(text.strip())) and read(match["code"]):
            return match["code"], match["words"]
    return "", text


def _icd10(code: str, certainty: str | None) -> Found | None:
    if certainty is None and code[-1] in "GVAZ" and len(code) > 3:
        code, certainty = code[:-1], code[-1]
    found = next((ICD10[code[:end]] for end in range(len(code), 2, -1) if code[:end] in ICD10), None)
    if found is None:
        return None
    if certainty in ("V", "A", "Z"):
        return Found(EVERYTHING, "icd10")
    name = ICD10_CM_C44.get(code[4], found[0]) if code.startswith("C44") and len(code) > 4 else found[0]
    return Found(_entities(name), "icd10")


def _icdo(morphology: str, behaviour: str | None) -> Found | None:
    if behaviour is None:
        return Found(CODES["melanocytic"].entities, "icdo") if int(morphology) in _MELANOCYTIC else None
    found = ICDO.get(f"{morphology}/{behaviour}")
    if found is None and int(morphology) in _MELANOCYTIC:
        found = ICDO_MELANOCYTIC.get(behaviour)
    return Found(_entities(found[0]), "icdo") if found else None


def _entities(name: str) -> frozenset[str]:
    return _SETS.get(name) or CODES[name].entities
