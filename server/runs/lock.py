"""Who works on something: a lock on a file that the kernel lets go of when its holder ends, however that comes."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from melfed.common.errors import ServiceError, StorageError

CONDUCTED = ".conducted.lock"
"""In a run folder: held by the ServerApp that conducts the run."""

PAUSE = 0.1


@contextlib.contextmanager
def held(path: Path, what: str, seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock; wait for it so long.

    Args:
        path: the lock file; it stays.
        what: said in the error, such as "the run is conducted".
        seconds: for a holder that is ending.

    Raises:
        ServiceError: another process holds it.
        StorageError: the file cannot be made.
    """
    descriptor = _open(path)
    deadline = time.monotonic() + seconds
    try:
        while not _lock(descriptor):
            if time.monotonic() >= deadline:
                raise ServiceError(f"{path.parent}: {what} by another process already; end that one first")
            time.sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Tell whether a process holds a lock. Raises StorageError where that cannot be found out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unopened(path, error) from None
    try:
        # Shared, so that two that ask at the same moment do not take each other for the holder.
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unopened(path, error) from None


def _unopened(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be opened: {error.strerror}; give this command as the folder's owner")


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
