"""What the header of a DICOM file says about a lesion and its patient: the fields of a table's row.

The objects that photographs of skin come in are read (VL Photographic and Dermoscopic Photography Image Storage), and
whatever else has the same attributes. Values stay in memory: they are neither logged nor cached, and no message quotes
one. pydicom quotes values in its warnings and its log, so both are silenced here.
"""

import io
import logging
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, Final

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_partial, read_preamble

from melfed.common.data.tables.cells import LONGEST

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom\b")

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
"""The transfer syntax whose header is compressed: a small file could fill the memory."""

DAMAGE: Final = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError, RecursionError),
    *(OverflowError, ArithmeticError, RuntimeError, InvalidDicomError),
    *(BytesLengthException, struct.error, AssertionError),
)
"""What pydicom and its plug-ins raise on damaged files, depending on the place of the damage."""

_DERMOSCOPIC: Final = "1.2.840.10008.5.1.4.1.1.77.1.7"
_DERMOSCOPY_MODALITY: Final = "DMS"  # not in pydicom's dictionary
_TAGS: Final = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "Modality", "SpecificCharacterSet"),
    *("PatientID", "PatientAge", "PatientSex", "PatientBirthDate"),
    *("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate"),
    *(
        "BodyPartExamined",
        "AnatomicRegionSequence",
        "PrimaryAnatomicStructureSequence",
        "ImageLaterality",
        "Laterality",
    ),
    *("SharedFunctionalGroupsSequence", "Manufacturer", "ManufacturerModelName", "AcquisitionDeviceTypeCodeSequence"),
)
_TAG_NUMBERS: Final = frozenset(tag_for_keyword(keyword) for keyword in _TAGS)
_LAST_TAG: Final = 0x52009230
"""PerFrameFunctionalGroupsSequence: behind it come the pixels."""
_DATE_DIGITS: Final = 8
_LATERALITIES: Final = {"L": "left", "R": "right", "U": "unilateral", "B": "bilateral"}


@dataclass(frozen=True, slots=True)
class Header:
    """Attributes of one DICOM file as text, as they would stand in a table; None where they are not there."""

    sop_instance_uid: str | None = None
    accession_number: str | None = None
    study: str | None = None
    """Study instance UID."""
    patient_id: str | None = None
    age: str | None = None
    """DICOM's age string (`060Y`), else years from the dates of birth and acquisition."""
    sex: str | None = None
    """`M`, `F` or `O`."""
    site: str | None = None
    """Meaning of the anatomic region's code, else the body part."""
    laterality: str | None = None
    """`left`, `right`, `unilateral` or `bilateral`."""
    device: str | None = None
    """Kind of the acquisition device, else its manufacturer and model."""
    image_type: str | None = None
    """`dermoscopic` where object class, modality or device say so."""

    def cells(self) -> dict[str, str]:
        """What is known, by the name of the field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def read_header(path: Path) -> Header:
    """Read the attributes of a DICOM file; all None where it is none, damaged, or cannot be opened.

    Decoding such a file says what is wrong with it.
    """
    try:
        with path.open("rb") as opened:
            if transfer_syntax(opened) == DEFLATED:
                return Header()
            return _header(read_partial(opened, _after_header, specific_tags=list(_TAG_NUMBERS)))  # type: ignore[arg-type]
    except DAMAGE:
        return Header()


def transfer_syntax(file: BinaryIO | io.BytesIO) -> str | None:
    """The UID of the encoding of a DICOM file, None where it names none; the file is left at its beginning.

    Raises:
        InvalidDicomError: it does not begin as a DICOM file.
    """
    read_preamble(file, force=False)
    # File meta information is group 2, always in explicit VR and little endian. `read_partial` would unpack all.
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group > 2)
    file.seek(0)
    found = meta.get("TransferSyntaxUID")
    return None if found is None else str(found)


def _after_header(tag: Any, _vr: str | None, _length: int) -> bool:
    return bool(tag >= _LAST_TAG)


def _header(dataset: Any) -> Header:
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    anatomy = _first(shared.get("FrameAnatomySequence")) if shared is not None else None
    places = [item for item in (dataset, anatomy) if item is not None]
    device_kind = _meaning(dataset.get("AcquisitionDeviceTypeCodeSequence"))
    named = " ".join(filter(None, (_text(dataset, "Manufacturer"), _text(dataset, "ManufacturerModelName")))) or None
    dermoscopic = (
        _text(dataset, "SOPClassUID") == _DERMOSCOPIC
        or _text(dataset, "Modality") == _DERMOSCOPY_MODALITY
        or "dermatoscop" in (device_kind or "").lower()
        or "dermoscop" in (device_kind or "").lower()
    )
    sides = (_text(place, name) for place in places for name in ("ImageLaterality", "FrameLaterality", "Laterality"))
    return Header(
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        accession_number=_text(dataset, "AccessionNumber"),
        study=_text(dataset, "StudyInstanceUID"),
        patient_id=_text(dataset, "PatientID"),
        age=_text(dataset, "PatientAge") or _years(dataset),
        sex=_text(dataset, "PatientSex"),
        site=_some(_site(place) for place in places) or _text(dataset, "BodyPartExamined"),
        laterality=_LATERALITIES.get(_some(sides) or ""),
        device=device_kind or named,
        image_type="dermoscopic" if dermoscopic else None,
    )


def _site(place: Any) -> str | None:
    names = ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence")
    return _some(_meaning(place.get(name)) for name in names)


def _years(dataset: Any) -> str | None:
    born = _date(_text(dataset, "PatientBirthDate"))
    names = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate")
    taken = _date(_some(_text(dataset, name) for name in names))
    if born is None or taken is None or taken < born:
        return None
    return str(taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day)))


def _date(text: str | None) -> date | None:
    try:
        return date.fromisoformat((text or "")[:_DATE_DIGITS])
    except ValueError:
        return None


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _meaning(sequence: Any) -> str | None:
    item = _first(sequence)
    return None if item is None else _text(item, "CodeMeaning")


def _text(dataset: Any, keyword: str) -> str | None:
    value = dataset.get(keyword)
    if value is None or isinstance(value, (list, tuple)):
        return None
    text = str(value).strip(" \0")
    return text if 0 < len(text) <= LONGEST else None  # the standard allows 64 characters


def _some(texts: Iterable[str | None]) -> str | None:
    return next((text for text in texts if text), None)
