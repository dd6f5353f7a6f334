"""ISIC 2024 (SLICE-3D): tiles of total body photographs, of which `target` says malignant or not.

Malignant is no melanoma: which it is stand in `iddx_1` to `iddx_5`, filled for what was biopsied (iddx_2 in 1,068 of
401,059 rows). What is malignant without them is left open. Kaggle publishes one table and the images in HDF5 files; the
challenge's own page a ground truth (`malignant`), a supplement with the diagnoses, and metadata.
Source: https://challenge.isic-archive.com/data/#2024; Kurtansky et al., Scientific Data 2024
"""

from typing import Final

from common.data.lines import MALIGNANT, MISSING, NOT_MALIGNANT, Lines
from common.data.readers.kinds import TableKind
from common.data.rows import Row
from common.data.vocabulary.diagnoses import Diagnosis

LEVELS: Final = tuple(f"iddx{level}" for level in range(1, 6))
_OPTIONAL: Final = ("attribution", "iddxfull", *LEVELS)
_TILE: Final = "tbp tile"


def _diagnoses(lines: Lines) -> list[Diagnosis]:
    if any(lines.has(level) for level in LEVELS):
        return lines.diagnoses(*(level for level in LEVELS if lines.has(level)))
    return lines.levels("iddxfull", "::")


def _kaggle(lines: Lines) -> list[Row]:
    target = "target" if lines.has("target") else "malignant"
    return _rows(lines, _diagnoses(lines), lines.stated(target, MALIGNANT, NOT_MALIGNANT))


def _supplement(lines: Lines) -> list[Row]:
    return _rows(lines, _diagnoses(lines))


def _metadata(lines: Lines) -> list[Row]:
    return _rows(lines, [MISSING] * lines.count)


def _rows(
    lines: Lines, diagnoses: list[Diagnosis], stated: list[frozenset[str] | None] | None = None
) -> list[Row]:
    return lines.rows(
        diagnoses,
        stated,
        image=("isicid",),
        age=("ageapprox",),
        site=("anatomsitegeneral",),
        source=lines.text("source", "attribution"),
        image_type=None if lines.has("imagetype") else _TILE,
    )


KINDS = (
    TableKind("ISIC 2024", ("isicid", "target", "iddxfull"), _kaggle, optional=_OPTIONAL, source="ISIC2024"),
    TableKind("ISIC 2024", ("isicid", "target", "iddx1"), _kaggle, optional=_OPTIONAL, source="ISIC2024"),
    TableKind("ISIC 2024", ("isicid", "target", "tbplva"), _kaggle, optional=_OPTIONAL, source="ISIC2024"),
    TableKind("ISIC 2024", ("isicid", "malignant"), _kaggle, optional=_OPTIONAL, source="ISIC2024"),
    TableKind("ISIC 2024", ("isicid", "iddxfull"), _supplement, "addition", optional=_OPTIONAL, source="ISIC2024"),
    TableKind("ISIC 2024", ("isicid", "tbplva"), _metadata, "addition", optional=_OPTIONAL, source="ISIC2024"),
)
