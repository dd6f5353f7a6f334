"""Locks on files, by `flock`: the kernel gives them back when their holder ends, however that comes.

The package `filelock` has no shared locks, and these need them: logs are read under a lock by users who may not write
to them, and whoever asks whether a lock is held must not be taken for its holder.
"""

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil

from melfed.common.errors import ServiceError, StorageError

PAUSE = 0.02
"""Seconds between two attempts."""

_LOCKS = Path("/proc/locks")


class HeldError(TimeoutError):
    """Others hold the lock; the text says who, such as "process 12 (melfed-server)"."""


class FileLock:
    """A lock on an open file, given back by `close`, when the object is collected, or when its process ends.

    A forked child that closes or drops its copy does not give back what its parent holds.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over an open file, which `close` closes."""
        self.descriptor = descriptor
        self._owner = os.getpid()
        # Closes without unlocking: in a forked child, collecting must not either.
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._close.alive:
            if os.getpid() == self._owner:
                # Closing alone would leave the lock with a child that was forked in the meantime.
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self._close()

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def lock(path: Path, seconds: float = 0.0, *, shared: bool = False, flags: int = os.O_RDWR | os.O_CREAT) -> FileLock:
    """Lock a file, made (0600) where it is missing.

    Args:
        path: the file; whoever holds it may delete it, and it is made anew.
        seconds: how long to wait for others; `math.inf` for as long as it takes.
        shared: with others whose lock is shared.
        flags: how to open it, as `os.open` has them.

    Raises:
        HeldError: others hold it for longer.
        OSError: it cannot be opened or locked.
    """
    end = time.monotonic() + seconds
    while True:
        held = FileLock(os.open(path, flags | os.O_CLOEXEC, 0o600))
        try:
            fcntl.flock(held.descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise HeldError(_holder(held.descriptor)) from None
            time.sleep(PAUSE)
        else:
            # Whoever held it may have deleted the file: nobody else would find that lock.
            if _is_at(held.descriptor, path):
                return held
        held.close()


@contextlib.contextmanager
def only_one(path: Path, what: str, seconds: float = 0.0) -> Iterator[FileLock]:
    """Hold a lock that says who works on the folder it lies in.

    Args:
        path: the lock file, which holds nothing else; it stays.
        what: said in the error, such as "the run is conducted".
        seconds: how long to wait for a holder that is ending.

    Raises:
        ServiceError: another process holds it; in one line that names it.
        StorageError: the file cannot be made.
    """
    try:
        held = lock(path, seconds, flags=os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except HeldError as holder:
        raise ServiceError(f"{path.parent}: {what} by {holder} already; end that one first") from None
    except OSError as error:
        raise _unopened(path, error) from None
    with held:
        yield held


def is_held(path: Path) -> bool:
    """Tell whether a process holds a lock. Raises StorageError where that cannot be found out."""
    try:
        # Shared, so that two that ask at the same moment do not take each other for the holder.
        lock(path, shared=True, flags=os.O_RDONLY).close()
    except FileNotFoundError:
        return False
    except HeldError:
        return True
    except OSError as error:
        raise _unopened(path, error) from None
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _holder(descriptor: int) -> str:
    """Return in words who holds the lock on an open file, as far as the kernel tells."""
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with contextlib.suppress(OSError, psutil.Error):
        for line in _LOCKS.read_text(encoding="ascii").splitlines():
            # "1: FLOCK  ADVISORY  WRITE 6051 fe:00:2146324 0 EOF"; whoever waits has "->" before the kind.
            _, kind, _, _, process, of, *_ = line.split()
            if kind == "FLOCK" and of == file:
                return f"process {process} ({psutil.Process(int(process)).name()})"
    return "another process"


def _unopened(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be opened: {error.strerror}; give this command as the folder's owner")
