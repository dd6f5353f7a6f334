"""Exports of the ISIC archive, of today and of its older vintages.

- today: `diagnosis_1` to `diagnosis_5`, `anatom_site_1` to `anatom_site_5`
- about 2022 to 2024: `benign_malignant`, `diagnosis`, `anatom_site_general`
- until 2021: `name`, and all else below `meta.clinical.`

Ids of patients and lesions (`IP_…`, `IL_…`) are unique in the archive; others are their source's own. RCM mosaics and
synthetic images are among its images. Source: https://www.isic-archive.com, isic-metadata 6.1
"""

import re
from collections.abc import Callable
from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row

LEVELS: Final = tuple(f"diagnosis{level}" for level in range(1, 6))
SITES: Final = ("anatomsitegeneral", *(f"anatomsite{level}" for level in range(1, 6)))
"""Each level more precise than the one before."""

_PATIENTS: Final = re.compile(r"ip_\d+")
_LESIONS: Final = re.compile(r"(il|ham|bcn|msk\d*)_\d+")


def _today(lines: Lines) -> list[Row]:
    return _rows(lines, ("benignmalignant", *LEVELS))


def _older(lines: Lines) -> list[Row]:
    return _rows(lines, ("benignmalignant", "diagnosis"))


def _rows(lines: Lines, levels: tuple[str, ...]) -> list[Row]:
    return lines.rows(
        lines.diagnoses(*(key for key in levels if lines.has(key))),
        image=("isicid",),
        age=("ageapprox",),
        site=SITES,
        source=lines.text("source", "attribution"),
        skin_type=("fitzpatrickskintype",),
    )


def _oldest(lines: Lines) -> list[Row]:
    return lines.rows(
        lines.diagnoses("metaclinicalbenignmalignant", "metaclinicaldiagnosis"),
        image=("name",),
        patient_id=("metaclinicalpatientid", "patientid"),
        lesion_id=("metaclinicallesionid", "lesionid"),
        age=("metaclinicalageapprox",),
        sex=("metaclinicalsex",),
        site=("metaclinicalanatomsitegeneral",),
        source=lines.text("source", "datasetname"),
        image_type=lines.image_types("metaacquisitionimagetype"),
    )


def _kind(*columns: str, read: Callable[[Lines], list[Row]], optional: tuple[str, ...]) -> TableKind:
    return TableKind(
        "ISIC archive",
        columns,
        read,
        optional=optional,
        patients=_PATIENTS,
        lesions=_LESIONS,
        source="ISIC archive",
        open_rows=True,
    )


_OPTIONAL: Final = (
    *("attribution", "benignmalignant", "diagnosis", "fitzpatrickskintype"),
    *(*LEVELS, *SITES),
)
_OLDEST: Final = (
    *("metaclinicalbenignmalignant", "metaclinicaldiagnosis", "metaclinicalageapprox", "metaclinicalsex"),
    *("metaclinicalanatomsitegeneral", "metaclinicalpatientid", "metaclinicallesionid", "datasetname"),
    "metaacquisitionimagetype",
)

KINDS = (
    _kind("isicid", "diagnosis1", read=_today, optional=_OPTIONAL),
    _kind("isicid", "diagnosis", read=_older, optional=_OPTIONAL),
    _kind("isicid", "benignmalignant", read=_older, optional=_OPTIONAL),
    _kind("name", "metaclinicalbenignmalignant", read=_oldest, optional=_OLDEST),
    _kind("name", "metaclinicaldiagnosis", read=_oldest, optional=_OLDEST),
)
