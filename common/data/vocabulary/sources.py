"""Where the entries of the vocabulary come from."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Source:
    """A publication or package, and its version."""

    name: str
    version: str
    where: str


SOURCES: Final = {
    "archive": Source(
        "ISIC archive, hierarchies of diagnoses and of anatomic sites",
        "isic-metadata 4.12.0 (Python 3.11) and 6.1.0, whose hierarchies are equal",
        "https://github.com/ImageMarkup/isic-metadata",
    ),
    "archive-legacy": Source(
        "ISIC archive, the diagnoses and sites of its older exports",
        "isic-metadata 4.12.0",
        "https://github.com/ImageMarkup/isic-metadata",
    ),
    "ham10000": Source("HAM10000 and ISIC 2018 task 3", "2018", "doi:10.7910/DVN/DBW86T"),
    "isic2019": Source("ISIC 2019", "2019", "https://challenge.isic-archive.com/data/#2019"),
    "isic2020": Source("ISIC 2020", "ground truth v2", "doi:10.34970/2020-ds01"),
    "milk10k": Source("MILK10k, ISIC 2025", "2025", "https://challenge.isic-archive.com/data/#milk10k"),
    "pad-ufes-20": Source("PAD-UFES-20", "1", "doi:10.17632/zr7vgbcyr2.1"),
    "derm7pt": Source("Derm7pt", "1", "https://derm.cs.sfu.ca"),
    "bcn20000": Source("BCN20000", "2024", "doi:10.1038/s41597-024-03387-w"),
    "fitzpatrick17k": Source("Fitzpatrick17k", "fac223ae6778", "https://github.com/mattgroh/fitzpatrick17k"),
    "ddi": Source("Diverse Dermatology Images (DDI)", "2022", "https://ddi-dataset.github.io"),
    "ph2": Source("PH2", "2013", "https://www.fc.up.pt/addi/ph2%20database.html"),
    "icd10": Source("ICD-10 and ICD-10-CM", "WHO 2019; ICD-10-CM 2024", "https://icd.who.int/browse10"),
    "icdo": Source("ICD-O-3, morphology", "3.2", "https://www.iarc.who.int/icd-o-3"),
    "icd11": Source("ICD-11 for Mortality and Morbidity Statistics", "2024-01", "https://icd.who.int/browse"),
    "snomed": Source(
        "SNOMED CT, English names of the melanomas",
        "no release is held; the names are composed of the words listed here",
        "https://browser.ihtsdotools.org",
    ),
    "who": Source("WHO Classification of Skin Tumours", "4th edition, 2018", "ISBN 978-92-832-2440-2"),
    "usage": Source(
        "Names and abbreviations that clinics write, English, German, French, Spanish, Italian, Portuguese, Dutch",
        "melfed 0.1.0",
        "common/data/vocabulary/lexicon",
    ),
}
