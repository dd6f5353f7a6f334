import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.data.inventory import Inventory, SamePicture, UnreadableFile, inspect
from melfed.common.errors import DataError

TABLE = """image,target,diagnosis,patient_id,lesion_id,dup_group,age,sex,site,source
a.png,1,mel,p1,l1,,34,female,back,north
b.png,0,nv,p1,l2,,,female,,north
c.png,0,nv,p2,,d,40,male,chest,south
d.png,1,mel,p2,,d,49,male,back,south
e.jpg,0,,p3,,,71,,back,south
f.png,0,nv,p3,,,71,male,back,south
gone.png,0,nv,p4,,,71,male,back,south
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "clinic"
    root.mkdir()
    (root / "metadata.csv").write_text(TABLE, encoding="utf-8")
    random = np.random.default_rng(0)
    for name in "abcx":
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / f"{name}.png")
    (root / "d.png").write_bytes((root / "a.png").read_bytes())
    (root / "e.jpg").write_bytes(b"no image at all")
    (root / "f.png").write_bytes(b"")
    return root


def test_inventory_of_a_small_folder(folder):
    steps: list[tuple[int, int]] = []
    found = inspect(folder, lambda done, total: steps.append((done, total)))
    assert steps == [(i, 6) for i in range(1, 7)]
    assert (found.folder, found.layout) == ("clinic", "melfed")
    assert (found.images, found.melanomas, found.benign) == (6, 2, 4)
    assert (found.patients, found.lesions, found.groups, found.groups_by) == (3, 2, 3, "patient")
    assert [tuple(source.model_dump().values()) for source in found.sources] == [
        ("north", 2, 1, 1, 2, 1),
        ("south", 4, 1, 2, 0, 2),
    ]
    assert (found.ages.known, found.ages.minimum, found.ages.median, found.ages.maximum) == (5, 34, 49, 71)
    assert found.ages.decades == {"30-39": 1, "40-49": 2, "70-79": 2}
    assert found.sexes == {"male": 3, "female": 2}
    assert list(found.sites.items()) == [("posterior torso", 4), ("anterior torso", 1)]
    assert found.diagnoses == {"nv": 3, "mel": 2}
    assert found.missing_values == {"diagnosis": 1, "patient_id": 0, "lesion_id": 4, "age": 1, "sex": 1, "site": 1}
    assert found.rows_without_image == ["gone.png"]
    assert found.images_without_row == ["x.png"]
    assert found.undiagnosed == []
    assert found.known_duplicates == [["c.png", "d.png"]]


def test_unreadable_and_identical_files_are_named(folder):
    found = inspect(folder)
    assert [file.image for file in found.unreadable] == ["e.jpg", "f.png"]
    assert all(file.reason and "\n" not in file.reason for file in found.unreadable)
    assert found.unreadable[1] == UnreadableFile(image="f.png", reason="empty file")
    # two patients share a picture: a split by patient would let it into both sides
    assert found.identical_files == [SamePicture(images=["a.png", "d.png"], groups=2, patients=2, targets_differ=False)]


def test_one_picture_with_both_labels(folder):
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    (same,) = inspect(folder).identical_files
    assert same == SamePicture(images=["a.png", "b.png", "d.png"], groups=2, patients=2, targets_differ=True)


def test_the_same_photograph_saved_anew(folder):
    grains = np.random.default_rng(9).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    photograph = Image.fromarray(grains).resize((120, 90), Image.Resampling.BICUBIC)
    photograph.save(folder / "b.png")
    photograph.resize((60, 45)).save(folder / "c.png")
    assert inspect(folder).near_duplicates == [
        SamePicture(images=["b.png", "c.png"], groups=2, patients=2, targets_differ=False)
    ]


def test_inventory_survives_json(folder):
    found = inspect(folder)
    assert Inventory.model_validate_json(json.dumps(found.model_dump(mode="json"))) == found
    assert str(folder.parent) not in found.model_dump_json()  # the report may leave the clinic


def test_no_ages_and_a_file_that_vanished(tmp_path):
    (tmp_path / "t.csv").write_text("image,target\na.png,0\n", encoding="utf-8")
    (tmp_path / "a.png").symlink_to("nowhere.png")
    found = inspect(tmp_path)
    assert found.ages.model_dump() == {"known": 0, "minimum": None, "median": None, "maximum": None, "decades": {}}
    assert [file.image for file in found.unreadable] == ["a.png"]
    assert found.identical_files == []


def test_a_folder_without_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="no table at all"):
        inspect(tmp_path)


def test_real_images(shared):
    start = time.perf_counter()
    found = inspect(shared / "data/isic")
    assert time.perf_counter() - start < 60
    assert (found.images, found.melanomas, found.unreadable) == (6000, 1012, [])
    assert found.groups_by == "lesion where known, else duplicate group, else image"
    assert len(found.known_duplicates) == 6
    assert sum(source.images for source in found.sources) == sum(found.diagnoses.values()) == 6000
    assert all(same.groups == 1 for same in found.identical_files)
    same = {image for picture in (*found.identical_files, *found.near_duplicates) for image in picture.images}
    assert {image for group in found.known_duplicates for image in group} <= same
