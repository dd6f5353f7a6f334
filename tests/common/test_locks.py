"""Locks on files: one holder, who is named, and who is gone when its process is."""

import errno
import fcntl
import math
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError, StorageError
from melfed.common.locks import HeldError, is_held, lock, only_one


def test_a_lock_is_held_by_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    with only_one(path, "it is done"):
        assert is_held(path)
        with (
            pytest.raises(ServiceError, match=rf"it is done by process {os.getpid()} \(.+\) already"),
            only_one(path, "it is done"),
        ):
            pass
    assert not is_held(path)


def test_whoever_asks_at_the_same_moment_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    other = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(other, fcntl.LOCK_SH)  # as `is_held` does, for a moment
        assert not is_held(path)
    finally:
        os.close(other)


def test_who_may_not_look_is_told_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(StorageError, match="cannot be opened: Permission denied; give this command as"):
        is_held(tmp_path / "lock")


def test_looking_makes_no_file(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_a_holder_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    other = os.open(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, (other,))
    timer.start()
    with only_one(path, "it is done", 10):
        assert is_held(path)
    timer.join()


HOLD = """
import sys
from pathlib import Path
from melfed.common.locks import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_holder_is_named_and_lets_go_by_being_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=rf"^process {other.pid} \(.+\)$"):
            lock(path)
        other.kill()
    with lock(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_cannot_be_found_out_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melfed.common.locks._LOCKS", tmp_path / "none")
    with lock(tmp_path / "lock"), pytest.raises(HeldError, match=r"^another process$"):
        lock(tmp_path / "lock")


def test_a_forked_child_gives_nothing_back_and_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock(path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        held.close()
        os.read(read, 1)
        os._exit(0)
    try:
        assert is_held(path)
        held.close()
        assert not is_held(path), "though the child had a copy of the descriptor"
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_a_file_that_its_holder_deletes_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock(path)

    def finish() -> None:
        path.unlink()
        held.close()

    timer = threading.Timer(0.2, finish)
    timer.start()
    with lock(path, math.inf):
        assert is_held(path)
    timer.join()


def test_shared_locks_bear_each_other_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path, shared=True), lock(path, shared=True, flags=os.O_RDONLY), pytest.raises(HeldError):
        lock(path)


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(StorageError, match="cannot be opened"), only_one(tmp_path / "lock", "it is done"):
        pass
    assert not (tmp_path / "other").exists()
