from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from melfed.common.data.images.dicom import Header, read_header
from melfed.common.data.images.store import ImageStore
from tests.common.data.made_pictures import dicom_bytes, native


def code(meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "SCT", meaning
    return item


def photograph(syntax: str = ExplicitVRLittleEndian) -> Dataset:
    made = native(syntax=syntax)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.StudyInstanceUID, made.AccessionNumber = "1.2.9", "A12 "
    made.PatientID, made.PatientName, made.PatientSex, made.PatientAge = "Müller 12", "Mustermann^Max", "F", "060Y"
    made.AnatomicRegionSequence = [code("Skin of back")]
    made.BodyPartExamined, made.ImageLaterality = "TRUNK", "L"
    made.Manufacturer, made.ManufacturerModelName = "Maker", "Model 3"
    return made


def header(made: Dataset, folder: Path) -> Header:
    path = folder / "a.dcm"
    path.write_bytes(dicom_bytes(made))
    return read_header(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_attributes(syntax: str, tmp_path: Path) -> None:
    assert header(photograph(syntax), tmp_path) == Header(
        sop_instance_uid="1.2.3.4",
        accession_number="A12",
        study="1.2.9",
        patient_id="Müller 12",
        age="060Y",
        sex="F",
        site="Skin of back",
        laterality="left",
        device="Maker Model 3",
        image_type=None,
    )


def test_cells_are_what_is_known(tmp_path: Path) -> None:
    assert header(native(), tmp_path).cells() == {"sop_instance_uid": "1.2.3.4"}


def test_body_part_where_no_region_is_coded(tmp_path: Path) -> None:
    made = photograph()
    del made.AnatomicRegionSequence
    assert header(made, tmp_path).site == "TRUNK"
    made.PrimaryAnatomicStructureSequence = [code("Skin of hand")]
    assert header(made, tmp_path).site == "Skin of hand"


def test_anatomy_of_the_frames(tmp_path: Path) -> None:
    made, shared, anatomy = photograph(), Dataset(), Dataset()
    del made.AnatomicRegionSequence, made.ImageLaterality
    anatomy.AnatomicRegionSequence, anatomy.FrameLaterality = [code("Skin of foot")], "R"
    shared.FrameAnatomySequence = [anatomy]
    made.SharedFunctionalGroupsSequence = [shared]
    found = header(made, tmp_path)
    assert (found.site, found.laterality) == ("Skin of foot", "right")


@pytest.mark.parametrize(
    ("born", "taken", "age"),
    [
        ("19600505", "20200504", "59"),
        ("19600505", "20200505", "60"),
        ("19600505", "20200505123000.5", "60"),
        ("19600505", "19500101", None),
        ("1960", "20200505", None),
        ("19601399", "20200505", None),
    ],
)
def test_age_of_the_dates(born: str, taken: str, age: str | None, tmp_path: Path) -> None:
    made = photograph()
    del made.PatientAge
    made.add_new("PatientBirthDate", "DA", born)
    made.add_new("AcquisitionDateTime", "DT", taken)
    assert header(made, tmp_path).age == age


def test_kinds_of_dermoscopy(tmp_path: Path) -> None:
    for change in (
        {"Modality": "DMS"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.7"},
        {"AcquisitionDeviceTypeCodeSequence": [code("Dermatoscope")]},
    ):
        made = photograph()
        for name, value in change.items():
            setattr(made, name, value)
        assert header(made, tmp_path).image_type == "dermoscopic"


@pytest.mark.parametrize(
    "content", [b"", b"DICM", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 64, b"\xff" * 999]
)
def test_what_is_no_dicom_says_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    assert read_header(path) == Header()


def test_deflated_headers_are_not_unpacked(tmp_path: Path) -> None:
    assert header(photograph(DeflatedExplicitVRLittleEndian), tmp_path) == Header()


def test_values_that_break_the_standard_are_read_and_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    data = dicom_bytes(photograph())
    path = tmp_path / "a.dcm"
    path.write_bytes(data.replace(b"060Y", b"sixt").replace(b"1.2.9", b"a.b.c"))
    found = read_header(path)
    assert (found.age, found.study) == ("sixt", "a.b.c")
    assert not caplog.records
    assert not [warning for warning in recwarn if "sixt" in str(warning.message) or "a.b.c" in str(warning.message)]


def test_a_file_that_cannot_be_opened_says_nothing(tmp_path: Path) -> None:
    assert read_header(tmp_path / "none.dcm") == Header()


def test_nothing_of_a_header_is_cached(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.dcm").write_bytes(dicom_bytes(photograph()))
    (tmp_path / "data" / "b.dcm").write_bytes(dicom_bytes(photograph())[:-1000])
    store = ImageStore.build(tmp_path / "cache", tmp_path / "data", ["a.dcm", "b.dcm"], 32)
    assert [item.image for item in store.left_out] == ["b.dcm"]
    store.duplicates()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert b"a.dcm" in kept
    for secret in (b"Mustermann", "Müller".encode(), b"A12", b"060Y", b"Skin of back", b"1.2.9", b"Model 3"):
        assert secret not in kept
