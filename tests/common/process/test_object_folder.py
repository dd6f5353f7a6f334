"""A folder of objects: whole files under their digests, handed from one process to another."""

import time
from pathlib import Path

import pytest

from melfed.common.process.object_folder import ObjectFolder

ONE, OTHER = "a" * 64, "b" * 64


def head(size: int) -> bytes:
    return str(size).encode() + b":"


@pytest.fixture(params=["bare", "headed"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> ObjectFolder:
    made = ObjectFolder(tmp_path / "objects", head) if request.param == "headed" else ObjectFolder(tmp_path / "objects")
    made.make()
    return made


@pytest.mark.parametrize("size", [0, 1, 7, 9, 10, 97, 98, 99, 100, 101, 1000])
def test_what_is_put_is_read_whole_or_in_part(folder: ObjectFolder, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    assert folder.read(ONE) is folder.size(ONE) is None
    folder.put(ONE, content)
    assert (folder.read(ONE), folder.read(ONE, 5), folder.size(ONE)) == (content, content[:5], size)
    opened = folder.open(ONE)
    assert opened is not None
    with opened[0] as file:
        assert (file.read(), opened[1]) == (content, size)
    folder.drop(ONE)
    folder.drop(ONE)
    assert not folder.has(ONE)


def test_what_is_handed_over_is_there_once_it_is_taken(folder: ObjectFolder) -> None:
    folder.hand(ONE, b"one")
    folder.hand(OTHER, b"other")
    assert not folder.has(ONE)
    assert folder.take(ONE)
    assert not folder.take(ONE)
    assert folder.read(ONE) == b"one"
    folder.clear_handed()
    assert not folder.take(OTHER)


def test_only_what_is_known_is_kept(folder: ObjectFolder) -> None:
    folder.put(ONE, b"one")
    folder.put(OTHER, b"other")
    left = folder.draft(OTHER, b"half")
    folder.keep({ONE}.__contains__)
    assert folder.has(ONE)
    assert not folder.has(OTHER)
    assert not left.exists()
    assert folder.handed.is_dir()
    assert folder.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["", "a", "../" + "a" * 61, "A" * 64, "a" * 63 + "/", "a" * 65])
def test_a_name_that_is_no_digest_is_no_path(folder: ObjectFolder, name: str) -> None:
    assert not folder.has(name)
    assert not folder.take(name)
    assert folder.open(name) is None
    folder.drop(name)
    for write in (folder.put, folder.hand, folder.draft):
        with pytest.raises(ValueError, match="names no object"):
            write(name, b"content")


def test_a_disk_that_is_full_leaves_nothing(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_head", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        folder.put(ONE, b"one")
    assert [path.name for path in folder.path.iterdir()] == ["handed"]


def test_a_look_tells_whether_anything_has_come_or_gone(folder: ObjectFolder) -> None:
    stamps = [folder.stamp()]
    for change in (lambda: folder.put(ONE, b"one"), lambda: folder.drop(ONE)):
        end = time.monotonic() + 5
        while (now := folder.stamp()) == stamps[-1] and time.monotonic() < end:  # clocks of files have steps
            change()
        stamps.append(now)
    assert len(set(stamps)) == 3
    assert folder.stamp() == stamps[-1]
    assert ObjectFolder(folder.path / "nowhere").stamp() == 0
