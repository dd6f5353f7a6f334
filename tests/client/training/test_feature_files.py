"""Rows of numbers on disk: stored once, checked each time, shared by lists, and bounded."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.training.feature_files import ROW, FeatureFiles
from melfed.common.errors import StorageError

LIMIT = 1 << 20
SHAPE = (3,)


def listed(*images: int) -> np.ndarray:
    """Rows of the index for so many images, all of view 0."""
    rows = np.zeros(len(images), ROW)
    for place, image in enumerate(images):
        rows[place]["image"] = image.to_bytes(32, "big")
    return rows


def values(*images: int) -> np.ndarray:
    return np.array([[image, image + 0.5, -image] for image in images], np.float32)


def filled(folder: Path, *images: int, space: str = "s") -> FeatureFiles:
    files = FeatureFiles(folder, space, listed(*images))
    with files.held():
        assert files.create(SHAPE, LIMIT)
        files.write(np.arange(len(images)), values(*images))
    return files


def test_what_was_stored_is_there_for_whoever_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "features"
    filled(folder, 1, 2)
    again = FeatureFiles(folder, "s", listed(1, 2))
    with again.held():
        assert again.shape == SHAPE
        again.verify()
        assert again.missing().tolist() == []
        np.testing.assert_array_equal(again.stored(), values(1, 2))
    files = sorted(path.suffix for path in folder.iterdir())
    assert files == [".f32", ".index", ""] or files == ["", ".f32", ".index"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_another_space_or_list_is_another_pair(tmp_path: Path) -> None:
    names = {FeatureFiles(tmp_path, space, rows).name for space in "ab" for rows in (listed(1), listed(2))}
    assert len(names) == 4


def test_only_what_was_written_counts(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "s", listed(1, 2, 3))
    with files.held():
        assert files.create(SHAPE, LIMIT)
        assert files.missing().tolist() == [0, 1, 2]
        files.write(np.array([1]), values(2))
        assert files.missing().tolist() == [0, 2]


@settings(deadline=None, max_examples=30)
@given(place=st.integers(0, 2 * 12 - 1), change=st.integers(1, 255))
def test_any_damaged_byte_of_the_data_costs_its_row(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    files = filled(tmp_path_factory.mktemp("f"), 1, 2)
    path = files.folder / f"{files.name}.f32"
    content = bytearray(path.read_bytes())
    content[place] ^= change
    path.write_bytes(content)
    again = FeatureFiles(files.folder, "s", listed(1, 2))
    with again.held():
        again.verify()
        assert again.missing().tolist() == [place // 12]


def test_a_file_of_another_size_is_as_good_as_none(tmp_path: Path) -> None:
    files = filled(tmp_path, 1, 2)
    os.truncate(tmp_path / f"{files.name}.f32", 5)
    again = FeatureFiles(tmp_path, "s", listed(1, 2))
    with again.held():
        assert again.shape is None
        assert again.missing().tolist() == [0, 1]


def test_rows_of_another_list_are_copied_and_damaged_ones_are_not(tmp_path: Path) -> None:
    first = filled(tmp_path, 1, 2)
    path = tmp_path / f"{first.name}.f32"
    path.write_bytes(path.read_bytes()[:12] + bytes(12))  # the second row is damaged
    filled(tmp_path, 3, space="other")
    files = FeatureFiles(tmp_path, "s", listed(2, 1, 3, 1))
    with files.held():
        assert files.create(SHAPE, LIMIT)
        files.copy_known()
        assert files.missing().tolist() == [0, 2]
        np.testing.assert_array_equal(files.stored()[[1, 3]], values(1, 1))


def test_those_that_were_not_used_for_longest_make_room_and_those_in_use_do_not(tmp_path: Path) -> None:
    old, used, newest = (filled(tmp_path, image, space=str(image)) for image in (1, 2, 3))
    for age, files in enumerate((old, used, newest)):
        for suffix in (".f32", ".index"):
            os.utime(tmp_path / f"{files.name}{suffix}", (age, age))
    size = old.size(SHAPE)
    files = FeatureFiles(tmp_path, "4", listed(4))
    with old.held(), files.held():  # which makes it the one used last
        os.utime(tmp_path / f"{old.name}.index", (0, 0))
        os.utime(tmp_path / f"{old.name}.f32", (0, 0))
        assert files.create(SHAPE, 3 * size)
    left = {path.stem for path in tmp_path.glob("*.f32")}
    assert left == {old.name, newest.name, files.name}


def test_what_does_not_fit_is_not_made(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "s", listed(1))
    with files.held():
        assert not files.create(SHAPE, files.size(SHAPE) - 1)
        assert files.create(SHAPE, files.size(SHAPE))


def test_the_stamp_changes_with_the_data(tmp_path: Path) -> None:
    files = filled(tmp_path, 1, 2)
    before = files.stamp()
    assert files.stamp() == before
    with files.held():
        files.write(np.array([0]), values(7))
    path = tmp_path / f"{files.name}.f32"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert files.stamp() != before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = FeatureFiles(tmp_path / "file" / "features", "s", listed(1))
    with (
        pytest.raises(StorageError, match=r"^feature cache .*/file/features: .*; free some space, or set MELFED_CACHE"),
        files.held(),
    ):
        pass
