"""Which file each row means."""

from pathlib import Path

import pytest

from melfed.common.data.images.files import Files
from melfed.common.data.tables.layouts import layouts_of, opened
from melfed.common.data.tables.matching import Matched
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import DataError
from tests.common.data.made_pictures import dicom_bytes, native
from tests.common.lesions import touch, write


def matched(root: Path, *lines: str, strict: bool = True, columns: str = "image,target") -> Matched:
    path = write(root / "t.csv", columns, *lines)
    layouts, _ = layouts_of(opened([path], strict), ReadOptions(), strict)
    return Matched(Files(root, strict, "inside"), layouts["melfed"], strict)


def test_rows_are_found_by_id_or_path_and_the_others_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "below/a.jpg", "b.png", "c/d.jpg")
    found = matched(tmp_path, "a,0", "b.png,1", "c/d.jpg,0", "e,0")
    assert {path: [row.image for row in rows] for path, rows in found.found.items()} == {
        "below/a.jpg": ["a"],
        "b.png": ["b.png"],
        "c/d.jpg": ["c/d.jpg"],
    }
    assert [row.image for row in found.missing] == ["e"]
    assert found.left_out == []


def test_two_rows_for_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"^t.csv, line 3: a second row for 'a.jpg'"):
        matched(tmp_path, "a,0", "a.jpg,0")
    assert [row.image for row in matched(tmp_path, "a,0", "a.jpg,0", strict=False).found["a.jpg"]] == ["a", "a.jpg"]


def test_a_name_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"^t.csv, line 2: '../x.jpg'"):
        matched(tmp_path, "../x.jpg,0")
    (left,) = matched(tmp_path, "../x.jpg,0", "a,1", strict=False).left_out
    assert (left.image, left.where, left.cause) == ("../x.jpg", "t.csv, line 2", "cannot be used")


def test_a_dicom_header_says_what_the_table_does_not(tmp_path: Path) -> None:
    dataset = native()
    dataset.PatientID, dataset.PatientAge, dataset.PatientSex = "P7", "060Y", "F"
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(dataset))
    (row,) = matched(tmp_path, "a,0").found["a.dcm"]
    assert (row.patient, row.age, row.sex) == ("p7", 60, "female")
    (row,) = matched(tmp_path, "a,0,P1,50,m", columns="image,target,patient_id,age,sex").found["a.dcm"]
    assert (row.patient, row.age, row.sex) == ("p1", 50, "male")
