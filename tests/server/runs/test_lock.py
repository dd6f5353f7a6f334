"""Locks that say who works on something."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError, StorageError
from melfed.server.runs.lock import held, is_held


def test_a_lock_is_held_by_one_alone(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with held(lock, "it is done"):
        assert is_held(lock)
        with pytest.raises(ServiceError, match="it is done by another process already"), held(lock, "it is done"):
            pass
    assert not is_held(lock)


def test_whoever_asks_at_the_same_moment_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    other = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(other, fcntl.LOCK_SH)  # as `is_held` does, for a moment
        assert not is_held(lock)
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
    lock = tmp_path / "lock"
    lock.touch()
    other = os.open(lock, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, (other,))
    timer.start()
    with held(lock, "it is done", 10):
        assert is_held(lock)
    timer.join()
