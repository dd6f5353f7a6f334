"""Writing files and folders so that a crash or a full disk leaves the previous content whole, and no half one."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from melfed.common.errors import StorageError

_UNFINISHED = re.compile(r"^\..+\.([0-9a-f]{8}|new)$")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a temporary sibling for writing; on success fsync it and rename it to `path`.

    Raises:
        StorageError: the file cannot be written; what stood at `path` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that `remove_unfinished` knows that somebody writes it
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        advice = "free space" if error.errno in _FULL else "see that its folder exists and can be written to"
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; {advice} and try again") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary sibling folder (0700) to fill; on success rename it to `path`, which must not exist.

    Raises:
        StorageError: a file or folder cannot be written; nothing is at `path` then.
    """
    stage = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent)
        stage.mkdir(mode=0o700)
        with _held(stage):
            try:
                yield stage
                stage.rename(path)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        reason = f"{path}: cannot be written: {error.strerror or error}"
        raise StorageError(f"{reason}; see that there is space and permission, and try again") from error


def remove_unfinished(folder: Path) -> None:
    """Remove from a folder what processes that were killed have left half-written; it may hold secrets.

    What a living process writes (`atomic_write`, `atomic_folder`) stays, and so does what this user may not remove.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if _UNFINISHED.match(path.name) and not path.is_symlink():
            with contextlib.suppress(OSError), _held(path, fcntl.LOCK_NB):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


@contextlib.contextmanager
def _held(path: Path, how: int = 0) -> Iterator[None]:
    """Hold the lock of a file or folder that is being made. Raises OSError where another process does, with LOCK_NB."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data to an open file. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
