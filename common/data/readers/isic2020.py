"""ISIC 2020 (SIIM-ISIC): a patient, a diagnosis where it is known, and melanoma or not.

Most of what is benign has no diagnosis: it is no cancer, and nobody knows whether it is a naevus. The target is the
challenge's own and settles what a diagnosis leaves open. Re-exports of ISIC 2019 have the same columns, with `-1` for
every patient. Source: https://challenge.isic-archive.com/data/#2020
"""

from dataclasses import replace

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import MELANOMA, NO_MELANOMA, NOT_MALIGNANT, Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    diagnoses, stated = lines.diagnoses("diagnosis"), lines.stated("target", MELANOMA, NO_MELANOMA)
    for line, (diagnosis, entities) in enumerate(zip(diagnoses, stated, strict=True)):
        if diagnosis.reading == "missing" and entities == NO_MELANOMA:
            stated[line] = NOT_MALIGNANT
        elif diagnosis.reading == "undecided" and entities is not None:
            diagnoses[line] = replace(diagnosis, reading="known", could_be=entities)
    sites = ("anatomsitegeneralchallenge",)
    return lines.rows(diagnoses, stated, image=("imagename",), age=("ageapprox",), site=sites, image_type="dermoscopic")


KINDS = (
    TableKind(
        "ISIC 2020",
        ("imagename", "patientid", "diagnosis", "target"),
        _read,
        optional=("anatomsitegeneralchallenge",),
        source="ISIC2020",
    ),
)
