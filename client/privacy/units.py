"""What differential privacy protects together: all images of a patient, of a lesion, or one image.

The unit is the promise of a study: neighbouring data sets differ by all images of one unit. Which unit an image belongs
to follows from its own row of the table and from nothing else. A rule that ties units together by what they share (one
picture, one lesion) would let one patient more merge, move or drop others, which no noise covers: a picture that two
patients share stays with each of them. Who knows that two ids are one person says so in `clinic.yaml`.
"""

from collections.abc import Sequence
from typing import Literal

from melfed.common.data.records import LesionRecord
from melfed.common.errors import DataError

Unit = Literal["patient", "lesion", "image"]


def unit_of(record: LesionRecord, unit: Unit) -> str | None:
    """Return the name of the unit that an image belongs to; None where its row does not say.

    A lesion without an id is taken with all of its patient's, which protects more than was asked for. The names contain
    the ids of the table: they stay at the clinic.
    """
    if unit == "image":
        return f"image:{record.image}"
    if unit == "lesion" and record.lesion_id is not None:
        return f"lesion:{record.lesion_id}"
    return None if record.patient_id is None else f"patient:{record.patient_id}"


def units_of(records: Sequence[LesionRecord], unit: Unit) -> list[str | None]:
    """Return the name of the unit of each record; records of one name are protected together."""
    return [unit_of(record, unit) for record in records]


def privacy_units(records: Sequence[LesionRecord], unit: Unit) -> list[str]:
    """Return the name of the unit of each record, all of which have one.

    Raises:
        DataError: an image has none. The message counts them, and says which weaker unit the table would support: it is
            for the clinic's own people, or the user of a simulation.

    >>> from types import SimpleNamespace
    >>> records = [SimpleNamespace(image=f"{n}.jpg", patient_id=who, lesion_id=None) for n, who in enumerate("AAB")]
    >>> privacy_units(records, "patient")
    ['patient:A', 'patient:A', 'patient:B']
    >>> privacy_units(records, "image")
    ['image:0.jpg', 'image:1.jpg', 'image:2.jpg']
    """
    names = [name for name in units_of(records, unit) if name is not None]
    if len(names) < len(records):
        raise DataError(_lacking(records, unit, len(records) - len(names)))
    return names


_IDS = {
    "patient": ("patient id", "patients", "patient_id"),
    "lesion": ("lesion id or patient id", "lesions", "lesion_id"),
}


def _lacking(records: Sequence[LesionRecord], unit: str, lacking: int) -> str:
    ids, protected, column = _IDS[unit]
    weaker = "lesion" if None not in units_of(records, "lesion") else "image"
    return (
        f"{lacking} of {len(records)} images have no {ids}, but the study protects {protected}; fill in the column "
        f"{column} (a pseudonym is enough), leave those images out, or agree on the weaker unit that these data "
        f"support: {weaker}"
    )
