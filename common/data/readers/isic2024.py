"""ISIC 2024 (SLICE-3D): tiles of total body photographs, of which `target` says malignant or not.

Malignant is no melanoma: which it is stand in `iddx_1` to `iddx_5`, filled for what was biopsied (iddx_2 in 1,068 of
401,059 rows). What is malignant without them is left open. Kaggle publishes one table and the images in HDF5 files; the
challenge's own page a ground truth (`malignant`), a supplement with the diagnoses, and metadata.
Source: https://challenge.isic-archive.com/data/#2024; Kurtansky et al., Scientific Data 2024
"""

from collections.abc import Callable
from typing import Final

from melfed.common.data.readers.kinds import Role, TableKind
from melfed.common.data.tables.lines import MALIGNANT, MISSING, NOT_MALIGNANT, Lines
from melfed.common.data.tables.rows import Row
from melfed.common.data.vocabulary.diagnoses import Diagnosis

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


def _rows(lines: Lines, diagnoses: list[Diagnosis], stated: list[frozenset[str] | None] | None = None) -> list[Row]:
    return lines.rows(
        diagnoses,
        stated,
        image=("isicid",),
        age=("ageapprox",),
        site=("anatomsitegeneral",),
        source=lines.text("source", "attribution"),
        image_type=None if lines.has("imagetype") else _TILE,
    )


def _kind(*columns: str, read: Callable[[Lines], list[Row]] = _kaggle, truth: bool = True) -> TableKind:
    role: Role = "truth" if truth else "addition"
    return TableKind("ISIC 2024", columns, read, role, _OPTIONAL, source="ISIC2024", open_rows=True)


KINDS = (
    _kind("isicid", "target", "iddxfull"),
    _kind("isicid", "target", "iddx1"),
    _kind("isicid", "target", "tbplva"),
    _kind("isicid", "malignant"),
    _kind("isicid", "iddxfull", read=_supplement, truth=False),
    _kind("isicid", "tbplva", read=_metadata, truth=False),
)
