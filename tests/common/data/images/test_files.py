import os
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pytest

from melfed.common.data.images.files import Files, table_stamp
from melfed.common.errors import DataError
from tests.common.data.made_pictures import dicom_bytes, native


def put(root: Path, *paths: str, content: str | bytes = "") -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else (content or path).encode())


def test_what_is_below_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", "a/1.png", "a/.hidden.jpg", ".git/2.jpg", "__MACOSX/3.jpg", "a/4_segmentation.png", "5.dng")
    put(tmp_path, "t.csv", "x/t.XLSX", "x/y/t.parquet", "x/y/z/t.csv", "notes.docx", "6.heic", "7.dcm")
    files = Files(tmp_path)
    assert files.images == ["6.heic", "7.dcm", "a/1.png", "b.JPG"]
    assert files.dicom_files == ["7.dcm"]
    assert files.tables == [tmp_path / "t.csv", tmp_path / "x/t.XLSX", tmp_path / "x/y/t.parquet"]
    assert files.not_read == ["5.dng", "notes.docx", "x/y/z/t.csv"]
    assert files.unlisted({"6.heic", "b.JPG"}) == ("7.dcm", "a/1.png")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("deep/er/ISIC_1.jpg", "deep/er/ISIC_1.jpg"),
        ("er/ISIC_1.jpg", "deep/er/ISIC_1.jpg"),  # relative to the table's folder
        ("deep\\er\\ISIC_1.jpg", "deep/er/ISIC_1.jpg"),
        ("./deep/er/ISIC_1.jpg", "deep/er/ISIC_1.jpg"),
        ("ISIC_1", "deep/er/ISIC_1.jpg"),
        ("ISIC_1.jpg", "deep/er/ISIC_1.jpg"),
        ("ISIC_1.png", "deep/er/ISIC_1.jpg"),  # published as PNG, kept as JPEG
        ("ISIC_2", "ISIC_2_downsampled.jpg"),
        ("ISIC_2_downsampled", "ISIC_2_downsampled.jpg"),
        ("1.2.840.3", "1.2.840.3.png"),
        ("isic_1", None),
        ("other/ISIC_1.jpg", None),
        ("", None),
        (".", None),
    ],
)
def test_names(tmp_path: Path, name: str, found: str | None) -> None:
    put(tmp_path, "deep/er/ISIC_1.jpg", "ISIC_2_downsampled.jpg", "1.2.840.3.png")
    assert Files(tmp_path).find(name, tmp_path / "deep") == found


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "C:\\a.jpg", "C:a.jpg", "x/../../a.jpg", "..", "..\\a.jpg"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a.jpg")
    with pytest.raises(DataError, match="leaves the data folder; give a path relative to it"):
        Files(tmp_path).find(name, tmp_path)


def test_one_name_of_several_files(tmp_path: Path) -> None:
    put(tmp_path, "a/x.jpg", "b/x.jpg")
    files = Files(tmp_path)
    with pytest.raises(
        DataError, match=r"^'x' fits 2 files of different content \(a/x\.jpg, b/x\.jpg\); write the path"
    ):
        files.find("x", tmp_path)
    assert files.find("b/x.jpg", tmp_path) == "b/x.jpg"
    assert files.find("x", tmp_path / "b") == "b/x.jpg"  # a table speaks of its own folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/x", "a/x.jpg"),  # a path without its suffix
        ("b/x", "deep/b/x.jpg"),  # the end of a path
        ("b/x.jpg", "deep/b/x.jpg"),
        ("x.png", "c/x.png"),  # the only one of this suffix
        ("deep/b/x.jpeg", "deep/b/x.jpg"),  # converted since
        ("d/x", None),
    ],
)
def test_a_folder_or_a_suffix_tells_files_of_one_name_apart(tmp_path: Path, name: str, found: str | None) -> None:
    put(tmp_path, "a/x.jpg", content=b"1")
    put(tmp_path, "deep/b/x.jpg", content=b"2")
    put(tmp_path, "c/x.png", content=b"3")
    assert Files(tmp_path).find(name, tmp_path) == found


def test_the_end_of_a_path_that_several_have_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/s/x.jpg", content=b"1")
    put(tmp_path, "b/s/x.jpg", content=b"2")
    with pytest.raises(DataError, match=r"^'s/x' fits 2 files of different content \(a/s/x\.jpg, b/s/x\.jpg\)"):
        Files(tmp_path).find("s/x", tmp_path)
    put(tmp_path, "s/x.jpg", content=b"3")
    assert Files(tmp_path).find("s/x", tmp_path) == "s/x.jpg"


@pytest.mark.parametrize(
    ("patient", "found"), [("p7", "images/P7/x.jpg"), ("8", "images/008/x.jpg"), ("9", None), (None, None)]
)
def test_a_folder_called_as_the_patient(tmp_path: Path, patient: str | None, found: str | None) -> None:
    for number, folder in enumerate(("P7", "008", "other")):
        put(tmp_path, f"images/{folder}/x.jpg", content=bytes([number]))
    if found is None:
        with pytest.raises(DataError, match="fits 3 files"):
            Files(tmp_path).find("x", tmp_path, patient)
    else:
        assert Files(tmp_path).find("x", tmp_path, patient) == found


def test_copies_of_one_file_are_one(tmp_path: Path) -> None:
    put(tmp_path, "a/deep/x.jpg", "b/x.jpg", "c/x.jpeg", content=b"same")
    assert Files(tmp_path).find("x", tmp_path) == "b/x.jpg"
    put(tmp_path, "c/x.jpeg", content=b"sAme")
    with pytest.raises(DataError, match="fits 3 files of different content"):
        Files(tmp_path).find("x", tmp_path)


def test_files_of_one_stem_and_different_suffixes(tmp_path: Path) -> None:
    put(tmp_path, "x.jpg", "x.png")
    with pytest.raises(DataError, match=r"x\.jpg, x\.png"):
        Files(tmp_path).find("x", tmp_path)
    assert Files(tmp_path).find("x.png", tmp_path) == "x.png"


FORMS = ("NFC", "NFD")


@pytest.mark.parametrize("on_disk", FORMS)
@pytest.mark.parametrize("in_table", FORMS)
@pytest.mark.parametrize("name", ["Läsion-é", "Läsion-é.jpg", "Ordner ü/Läsion-é.jpg"])
def test_unicode_forms(tmp_path: Path, on_disk: str, in_table: str, name: str) -> None:
    path = unicodedata.normalize(on_disk, "Ordner ü/Läsion-é.jpg")
    put(tmp_path, path)
    assert Files(tmp_path).find(unicodedata.normalize(in_table, name), tmp_path) == path


def test_two_unicode_forms_of_one_name(tmp_path: Path) -> None:
    put(tmp_path, unicodedata.normalize("NFC", "é.jpg"), content=b"one")
    put(tmp_path, unicodedata.normalize("NFD", "é.jpg"), content=b"two")
    with pytest.raises(DataError, match="fits 2 files of different content"):
        Files(tmp_path).find("é.jpg", tmp_path)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "outside", "a.jpg", "b.jpg")
    put(tmp_path / "data", "c.jpg")
    (tmp_path / "data/a.jpg").symlink_to(tmp_path / "outside/a.jpg")
    (tmp_path / "data/d.jpg").symlink_to(tmp_path / "data/c.jpg")
    (tmp_path / "data/folder").symlink_to(tmp_path / "outside")
    files = Files(tmp_path / "data")
    assert files.find("d", files.root) == "d.jpg"
    for name in ("a", "folder/b.jpg"):
        with pytest.raises(DataError, match="is a link out of the data folder; copy the images into it"):
            files.find(name, files.root)


def test_images_under_suffixes_that_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, "a/ISIC_1.dng", "ISIC_2.avif", "ISIC_3.avif", "ISIC_4.jpg", "rest.docx")
    files = Files(tmp_path)
    names = ["ISIC_1", "ISIC_2.jpg", "x/ISIC_3", "ISIC_5"]
    assert files.unread(names) == {"ISIC_1": "a/ISIC_1.dng", "ISIC_2.jpg": "ISIC_2.avif", "x/ISIC_3": "ISIC_3.avif"}
    assert files.unread_reason(names) == (
        "3 images are there under a suffix that is not read: .avif (2), .dng (1); convert them to JPEG or PNG"
    )
    assert files.unread_reason(["ISIC_5"]) is None


def test_packed_images(tmp_path: Path) -> None:
    put(tmp_path, "ISIC_1.zip")
    assert "unpack them" in (Files(tmp_path).unread_reason(["ISIC_1"]) or "")


def test_images_in_a_container(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        for name in ("ISIC_1", "more/ISIC_2"):
            file[name] = np.void(name.encode())
    put(tmp_path, "t.csv")
    files = Files(tmp_path)
    assert files.images == ["train-image.hdf5/ISIC_1", "train-image.hdf5/more/ISIC_2"]
    assert files.find("ISIC_1", tmp_path) == "train-image.hdf5/ISIC_1"
    assert files.find("ISIC_2.jpg", tmp_path) == "train-image.hdf5/more/ISIC_2"
    put(tmp_path, "ISIC_1.jpg", content=b"other")
    with pytest.raises(DataError, match="fits 2 files of different content"):
        Files(tmp_path).find("ISIC_1", tmp_path)
    put(tmp_path, "ISIC_1.jpg", content=b"ISIC_1")
    assert Files(tmp_path).find("ISIC_1", tmp_path) == "ISIC_1.jpg"


def test_a_damaged_container_is_an_error_or_not_read(tmp_path: Path) -> None:
    put(tmp_path, "a.h5", "b.jpg")
    with pytest.raises(DataError, match=r"a\.h5: cannot be read as HDF5"):
        Files(tmp_path)
    files = Files(tmp_path, strict=False)
    assert (files.images, files.not_read) == (["b.jpg"], ["a.h5"])


def dicom(uid: str, accession: str) -> bytes:
    made = native()
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    made.AccessionNumber = accession
    return dicom_bytes(made)


def test_dicom_files_by_what_their_headers_say(tmp_path: Path) -> None:
    put(tmp_path, "IM0001", content=dicom("1.2.3", "A1"))
    put(tmp_path, "series/1.2.840.99", content=dicom("1.2.4", "A1"))
    put(tmp_path, "x.dcm", content=dicom("1.2.5", "A2"))
    put(tmp_path, "README", "1.2.9")
    files = Files(tmp_path)
    assert files.images == ["IM0001", "series/1.2.840.99", "x.dcm"]
    assert [files.find(name, tmp_path) for name in ("1.2.3", "1.2.4", "1.2.5", "1.2.6", "x", "IM0001")] == [
        *("IM0001", "series/1.2.840.99", "x.dcm", None, "x.dcm", "IM0001"),
    ]
    assert files.of_accession("A1") == ("IM0001", "series/1.2.840.99")
    assert files.of_accession("A3") == ()


def test_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: cannot be read"):
        Files(tmp_path / "none")


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx", "a.dcm", "IM0001", "images.hdf5"])
def test_stamp_follows_what_tells_facts(tmp_path: Path, name: str) -> None:
    put(tmp_path, "t.csv", "t.xlsx", "a.dcm", "IM0001", "a.jpg")
    h5py.File(tmp_path / "images.hdf5", "w").close()
    before = table_stamp(tmp_path)
    assert table_stamp(tmp_path) == before
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    assert table_stamp(tmp_path) == before
    os.utime(tmp_path / name, ns=(1, 1))
    assert table_stamp(tmp_path) != before


def test_stamp_follows_names(tmp_path: Path) -> None:
    put(tmp_path, "t.csv", "a.jpg")
    before = table_stamp(tmp_path)
    (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")
    assert table_stamp(tmp_path) != before
