"""What differential privacy protects together: all images of a patient, of a lesion, or one image.

The unit is the promise of a study: neighbouring data sets differ by all images of one unit. An image that should
belong to a unit and is not known to would escape the promise, so a unit that the table cannot support is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from common.data.records import LesionRecord, group_ids
from common.errors import DataError

Unit = Literal["patient", "lesion", "image"]


def privacy_units(records: Sequence[LesionRecord], unit: Unit) -> list[str]:
    """Return the name of the unit of each record; records of one name are protected together.

    Patients and lesions are connected components of `common.data.records.group_ids`: images that share a patient, a
    lesion or a duplicate group are one unit, so a unit may be larger than what was asked for (all lesions of a known
    patient, even for `lesion`) and is never smaller. For `image` each image is a unit, and copies of one picture are
    one. The names contain the ids of the table: they stay at the clinic.

    Raises:
        DataError: for `patient`, where an image has no patient id; for `lesion`, where one has neither a lesion id nor
            a patient id. The message counts them, and says which weaker unit the table would support.
    """
    if unit == "image":
        # Without the ids of patients and lesions only copies of one picture are left to be tied together.
        return group_ids([replace(record, patient_id=None, lesion_id=None) for record in records])
    lacking = sum(not _SUPPORTS[unit](record) for record in records)
    if lacking:
        raise DataError(_lacking(records, unit, lacking))
    return group_ids(records)


_SUPPORTS: dict[str, Callable[[LesionRecord], bool]] = {
    "patient": lambda record: record.patient_id is not None,
    "lesion": lambda record: record.lesion_id is not None or record.patient_id is not None,
}
_IDS = {
    "patient": ("patient id", "patients", "patient_id"),
    "lesion": ("lesion id or patient id", "lesions", "lesion_id"),
}


def _lacking(records: Sequence[LesionRecord], unit: str, lacking: int) -> str:
    ids, protected, column = _IDS[unit]
    weaker = "lesion" if all(map(_SUPPORTS["lesion"], records)) else "image"
    return (
        f"{lacking} of {len(records)} images have no {ids}, but the study protects {protected}; fill in the column "
        f"{column} (a pseudonym is enough), leave those images out, or agree on the weaker unit that these data "
        f"support: {weaker}"
    )
