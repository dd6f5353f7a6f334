"""The file operations of a journal on a real disk: as those of the disk that crashes in tests, and private."""

import stat
from pathlib import Path

import pytest

from melfed.client.ledger.disk import Disk
from melfed.common.locks import HeldError
from tests.client.ledger.fake_disk import FakeDisk


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("kind", [Disk, FakeDisk])
def test_what_is_written_appended_cut_and_renamed_is_read(kind: type[Disk], tmp_path: Path) -> None:
    disk, path, other = kind(), tmp_path / "a" / "b" / "file", tmp_path / "a" / "b" / "other"
    disk.make_folder(path.parent)
    assert disk.read(path) is None
    disk.write(path, b"one")
    disk.append(path, b" two")
    assert (disk.read(path), disk.size(path)) == (b"one two", 7)
    disk.truncate(path, 3)
    disk.sync(path)
    disk.write(other, b"other")
    disk.write(other, b"short")
    disk.rename(other, path)
    disk.sync_folder(path.parent)
    assert (disk.read(path), disk.read(other)) == (b"short", None)


def test_folders_and_files_are_private_and_those_above_are_made(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "a" / "b" / "file"
    disk.make_folder(path.parent)
    disk.make_folder(path.parent)
    disk.write(path, b"x")
    assert [mode(each) for each in (path.parent.parent, path.parent, path)] == [0o700, 0o700, 0o600]


def test_nothing_is_appended_to_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Disk().append(tmp_path / "file", b"x")


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    with Disk().lock(tmp_path / "lock", 0), pytest.raises(HeldError):
        Disk().lock(tmp_path / "lock", 0)
    Disk().lock(tmp_path / "lock", 0).close()
