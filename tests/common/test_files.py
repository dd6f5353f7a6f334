"""Files are written whole or not at all, and what stood there before stays."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from melfed.common.errors import StorageError
from melfed.common.files import atomic_folder, atomic_write, remove_unfinished, write_text

REPOSITORY = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_text(path, "new é")
    assert path.read_bytes() == "new é".encode()
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_nothing_is_to_be_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    expected = StorageError if isinstance(error, OSError) else type(error)

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(expected):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_found_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot be written: .*; free space and try again") as excinfo:
        write_text(path, "new")
    assert str(path) in str(excinfo.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_that_grows_beyond_the_limit(tmp_path: Path) -> None:
    """The kernel itself refuses to write, in a process of its own."""
    code = """
import resource, signal, sys
from pathlib import Path
from melfed.common.errors import StorageError
from melfed.common.files import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write_text(Path(sys.argv[1]), "a" * 50_000)
try:
    write_text(Path(sys.argv[1]), "b" * 200_000)
except StorageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{tmp_path / 'file'}: cannot be written: File too large; free space and try again"
    assert (tmp_path / "file").read_text() == "a" * 50_000
    assert names(tmp_path) == ["file"]


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "missing" / "file",
        tmp_path / "plain" / "file",
        tmp_path / ("n" * 250),
        tmp_path / "folder",
    ):
        with pytest.raises(StorageError, match="see that its folder exists and can be written to"):
            write_text(path, "text")
    assert names(tmp_path) == ["folder", "plain"]


KILLED = """
import os, sys
from pathlib import Path
from melfed.common.files import atomic_folder, atomic_write
how = {"file": atomic_write, "folder": atomic_folder}[sys.argv[1]]
with how(Path(sys.argv[2])) as made:
    if sys.argv[1] == "folder":
        (made / "key").write_text("secret")
    else:
        made.write(b"secret")
        made.flush()
    print("writing", flush=True)
    input()
    os._exit(9)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(kind: str, tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / "nginx.conf.new").touch()
    others = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", KILLED, kind, str(tmp_path / "made")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        left = set(tmp_path.iterdir()) - {*others}
        assert len(left) == 1
        remove_unfinished(tmp_path)
        assert left < {*tmp_path.iterdir()}
        writer.communicate(b"\n", timeout=30)
    assert left < {*tmp_path.iterdir()}
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == others
    remove_unfinished(tmp_path / "none")


def test_a_folder_appears_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "above" / "made") as stage:
        (stage / "key").write_text("1")
        assert not (tmp_path / "above" / "made").exists()
    assert (tmp_path / "above" / "made" / "key").read_text() == "1"
    with pytest.raises(StorageError, match="other: cannot be written"), atomic_folder(tmp_path / "other") as stage:
        (stage / "none").rename(stage / "key")
    assert [path.name for path in tmp_path.iterdir()] == ["above"]
    with (
        pytest.raises(StorageError, match="cannot be written"),
        atomic_folder(tmp_path / "above" / "made" / "key" / "x"),
    ):
        pass


def test_of_two_that_make_one_folder_the_second_is_told(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made") as stage:
        (stage / "key").write_text("first")
        with pytest.raises(StorageError, match="File exists"), atomic_folder(tmp_path / "made"):
            pass
    assert (tmp_path / "made" / "key").read_text() == "first"
