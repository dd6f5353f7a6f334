"""The published tables of dermoscopy images, recognised by their columns and read line by line.

A table is the *truth* of its layout (one row an image, with a diagnosis or a target) or an *addition* that only
completes rows of the truth (age, sex, lesion). Column names are compared in lower case. Layouts and where they are
published:

- ISIC 2017 to 2020: the challenges' ground truth and metadata, https://challenge.isic-archive.com/data
- Fed-ISIC2019: the split by centre of FLamby (Ogier du Terrail et al., 2022), an addition to ISIC 2019
- HAM10000: its metadata (Tschandl et al., 2018), doi:10.7910/DVN/DBW86T
- ISIC archive: the `metadata.csv` of an export from https://www.isic-archive.com
- melfed: `image,target` and any of `diagnosis,patient_id,lesion_id,dup_group,age,sex,site,source`
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError

DIAGNOSES = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc", "unk")
MALIGNANT = frozenset({"mel", "bcc", "scc", "ak"})
SITES = (
    "head/neck",
    "upper extremity",
    "lower extremity",
    "torso",
    "anterior torso",
    "posterior torso",
    "lateral torso",
    "palms/soles",
    "oral/genital",
)

_UNKNOWN = frozenset({"", "unknown", "unk", "nan", "na", "n/a", "none", "null", "-", "?"})
_SITE_WORDS = {
    **{site: site for site in SITES},
    **dict.fromkeys(("scalp", "face", "ear", "neck", "head"), "head/neck"),
    **dict.fromkeys(("chest", "abdomen"), "anterior torso"),
    **dict.fromkeys(("hand", "foot", "acral", "palms", "soles"), "palms/soles"),
    **dict.fromkeys(("genital", "oral"), "oral/genital"),
    **dict.fromkeys(("arm", "upper extremities"), "upper extremity"),
    **dict.fromkeys(("leg", "lower extremities"), "lower extremity"),
    "back": "posterior torso",
    "trunk": "torso",
}
_SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}
# The ISIC archive refines an entity after it ("Melanoma in situ, lentigo maligna type"), so its beginning decides.
_DIAGNOSIS_BEGINNINGS = (
    ("malignant melanocytic proliferations", "mel"),
    ("recurrent/persistent melanoma", "mel"),
    ("lentigo maligna", "mel"),
    ("melanoma", "mel"),
    ("blue nevus", "nv"),
    ("dysplastic nevus", "nv"),
    ("melanocytic nevus", "nv"),
    ("spitz nevus", "nv"),
    ("naevus", "nv"),
    ("nevus", "nv"),
    ("basal cell carcinoma", "bcc"),
    ("actinic keratosis", "ak"),
    ("solar or actinic keratosis", "ak"),
    ("squamous cell carcinoma", "scc"),
    ("seborrheic keratosis", "bkl"),
    ("seborrhoeic keratosis", "bkl"),
    ("pigmented benign keratosis", "bkl"),
    ("lichenoid keratosis", "bkl"),
    ("lichen planus like keratosis", "bkl"),
    ("lichen planus-like keratosis", "bkl"),
    ("solar lentigo", "bkl"),
    ("dermatofibroma", "df"),
    ("benign soft tissue proliferations - vascular", "vasc"),
    ("vascular lesion", "vasc"),
    ("hemangioma", "vasc"),
    ("haemangioma", "vasc"),
    ("angioma", "vasc"),
    ("angiokeratoma", "vasc"),
    ("pyogenic granuloma", "vasc"),
    ("lymphangioma", "vasc"),
)


def diagnosis_code(text: str) -> str:
    """The entry of `DIAGNOSES` that a published diagnosis means, or the text as it was published."""
    plain = " ".join(text.lower().split())
    if plain in DIAGNOSES:
        return plain
    if plain == "akiec":  # actinic keratosis and Bowen's disease, one class in HAM10000 and ISIC 2018
        return "ak"
    return next((code for beginning, code in _DIAGNOSIS_BEGINNINGS if plain.startswith(beginning)), text.strip())


def without_suffix(image: str) -> str:
    """The image id without the `_downsampled` that 2,074 ids of ISIC 2019 carry."""
    return image.removesuffix("_downsampled")


@dataclass(slots=True)
class Row:
    """What one or several tables say about one image; None where they say nothing."""

    image: str
    """Image id; in melfed's own table a path or a file name."""
    table: Path
    line: int
    diagnosis: str | None = None
    target: int | None = None
    """Melanoma or not, as the table itself states it."""
    ruled_out: frozenset[str] = frozenset()
    """Diagnoses that the lesion is known not to have, though its own may be unknown."""
    patient_id: str | None = None
    lesion_id: str | None = None
    dup_group: str | None = None
    age: float | None = None
    sex: str | None = None
    site: str | None = None
    source: str | None = None

    @property
    def where(self) -> str:
        """File name and line number, for messages."""
        return f"{self.table.name}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: cells by lower-case column name."""

    table: Path
    number: int
    cells: dict[str, str]

    @property
    def where(self) -> str:
        """File name and line number."""
        return f"{self.table.name}, line {self.number}"

    def text(self, *columns: str) -> str | None:
        """The first of the columns that holds something known, stripped; None where none does."""
        texts = (self.cells.get(column, "").strip() for column in columns)
        return next((text for text in texts if text.lower() not in _UNKNOWN), None)

    def binary(self, column: str) -> int:
        """A cell that must be 0 or 1 (also `0.0`, `1.0`); anything else raises DataError with file, line, value."""
        text = self.cells.get(column, "").strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if value not in (0.0, 1.0):
            raise DataError(f"{self.where}: {column} is {text!r}, and only 0 or 1 is allowed; mend that cell")
        return int(value)

    def one_hot(self, columns: Sequence[str]) -> str:
        """The one column of a row that is 1; anything but exactly one raises DataError."""
        chosen = [column for column in columns if self.binary(column)]
        if len(chosen) != 1:
            names = ", ".join(columns).upper()
            raise DataError(f"{self.where}: {len(chosen)} of the columns {names} are 1; exactly one must be")
        return chosen[0]

    def row(self, image: str, *, age: str = "age", sex: str = "sex", site: str = "site") -> Row:
        """A row with the image and what the named columns say about its patient."""
        if not (name := self.cells.get(image, "").strip()):
            raise DataError(f"{self.where}: the column {image} is empty; name the image or delete the line")
        return Row(
            image=without_suffix(name),
            table=self.table,
            line=self.number,
            patient_id=self.text("patient_id"),
            lesion_id=self.text("lesion_id"),
            age=_age(self.text(age)),
            sex=_SEXES.get((self.text(sex, "gender") or "").lower()),
            site=_SITE_WORDS.get((self.text(site) or "").lower()),
        )


def _age(text: str | None) -> float | None:
    try:
        age = float((text or "").removesuffix("+"))
    except ValueError:
        return None
    return age if 0 <= age < math.inf else None


def _isic2017_truth(line: Line) -> Row:
    row = line.row("image_id")
    row.target = line.binary("melanoma")
    row.ruled_out = frozenset() if row.target else frozenset({"mel"})
    if row.target:
        row.diagnosis = "mel"
    elif "seborrheic_keratosis" in line.cells:
        row.diagnosis = "bkl" if line.binary("seborrheic_keratosis") else "nv"
    return row


def _isic2017_metadata(line: Line) -> Row:
    return line.row("image_id", age="age_approximate")


_ISIC2018_CLASSES = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")


def _isic2018_truth(line: Line) -> Row:
    row = line.row("image")
    row.diagnosis = diagnosis_code(line.one_hot(_ISIC2018_CLASSES))
    return row


def _isic2018_lesions(line: Line) -> Row:
    return line.row("image")


_ISIC2019_CLASSES = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc", "unk")


def _isic2019_truth(line: Line) -> Row:
    row = line.row("image")
    row.diagnosis = line.one_hot(_ISIC2019_CLASSES)
    if row.diagnosis == "unk":  # there it means none of the eight others
        row.ruled_out = frozenset(_ISIC2019_CLASSES[:-1])
    return row


def _isic2019_metadata(line: Line) -> Row:
    return line.row("image", age="age_approx", site="anatom_site_general")


def _fed_isic2019(line: Line) -> Row:
    row = line.row("image")
    center = line.text("center")
    row.source = f"center_{center.removesuffix('.0')}" if center else None
    return row


def _isic2020(line: Line) -> Row:
    row = line.row("image_name", age="age_approx", site="anatom_site_general_challenge")
    row.target = line.binary("target")
    row.diagnosis = diagnosis_code(line.text("diagnosis") or "unk")
    row.ruled_out = frozenset() if row.target else MALIGNANT
    return row


def _ham10000(line: Line) -> Row:
    row = line.row("image_id", site="localization")
    if (diagnosis := line.text("dx")) is None:
        raise DataError(f"{line.where}: dx is empty; give the diagnosis or delete the line")
    row.diagnosis = diagnosis_code(diagnosis)
    dataset = line.text("dataset")
    row.source = f"HAM_{dataset}" if dataset else None
    return row


def _archive(line: Line) -> Row:
    row = line.row("isic_id", age="age_approx", site="anatom_site_general")
    row.source = line.text("attribution")
    row.ruled_out = (
        MALIGNANT if (line.text("diagnosis_1", "benign_malignant") or "").lower() == "benign" else frozenset()
    )
    columns = ("diagnosis", "diagnosis_2", "diagnosis_3", "diagnosis_4", "diagnosis_5")
    codes = [diagnosis_code(text) for column in columns if (text := line.text(column))]
    # Every level refines the one before, so the first that names an entity is right and the last is the most precise.
    row.diagnosis = next((code for code in codes if code in DIAGNOSES), codes[-1] if codes else None)
    return row


def _melfed(line: Line) -> Row:
    row = line.row("image")
    row.image = line.cells["image"].strip().replace("\\", "/")
    row.target = line.binary("target")
    diagnosis = line.text("diagnosis")
    row.diagnosis = diagnosis_code(diagnosis) if diagnosis else None
    row.dup_group = line.text("dup_group")
    row.source = line.text("source") or line.table.resolve().parent.name
    return row


@dataclass(frozen=True)
class TableKind:
    """A kind of table: the columns it is known by, and how a line of it reads."""

    layout: str
    columns: tuple[str, ...]
    read: Callable[[Line], Row]
    truth: bool = True


# The first kind whose columns are all there wins: an addition's columns may be a part of a truth's.
KINDS = (
    TableKind("ISIC 2019", ("image", "mel", "center", "fold"), _fed_isic2019, truth=False),
    TableKind("ISIC 2019", ("image", *_ISIC2019_CLASSES), _isic2019_truth),
    TableKind("ISIC 2018", ("image", *_ISIC2018_CLASSES), _isic2018_truth),
    TableKind("ISIC 2020", ("image_name", "patient_id", "diagnosis", "target"), _isic2020),
    TableKind("ISIC 2017", ("image_id", "melanoma"), _isic2017_truth),
    TableKind("HAM10000", ("image_id", "lesion_id", "dx"), _ham10000),
    TableKind("melfed", ("image", "target"), _melfed),
    TableKind("ISIC archive", ("isic_id", "diagnosis_1"), _archive),
    TableKind("ISIC archive", ("isic_id", "diagnosis"), _archive),
    TableKind("ISIC 2017", ("image_id", "age_approximate", "sex"), _isic2017_metadata, truth=False),
    TableKind("ISIC 2018", ("image", "lesion_id", "diagnosis_confirm_type"), _isic2018_lesions, truth=False),
    TableKind("ISIC 2019", ("image", "age_approx", "anatom_site_general"), _isic2019_metadata, truth=False),
)
DEFAULT_SOURCES = {"HAM10000": "HAM10000", "ISIC archive": "ISIC archive"} | {
    f"ISIC {year}": f"ISIC{year}" for year in (2017, 2018, 2019, 2020)
}
