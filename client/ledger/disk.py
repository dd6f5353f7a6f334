"""The file operations of a journal, one a method, so that a test can crash before, in and after each of them."""

import fcntl
import os
import time
import weakref
from pathlib import Path

_PAUSE = 0.05
"""Seconds between two attempts to lock."""


class FileLock:
    """An exclusive lock on a file, given back by `close`, when the object is collected, or when its process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Closes without unlocking: a forked child that drops its copy must not free what its parent holds.
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._close.alive:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()


class Disk:
    """A real disk. Every method raises OSError as the operating system does."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder, and those above it that are missing (0700), durably."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            _sync(path.parent)

    def read(self, path: Path) -> bytes | None:
        """Return a file's content, None where there is no such file."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def size(self, path: Path) -> int:
        """Return a file's length in bytes."""
        return path.stat().st_size

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end of a file that exists; not durable before `sync`."""
        _write(path, os.O_APPEND, data)

    def write(self, path: Path, data: bytes) -> None:
        """Make or replace a file (0600); not durable before `sync`."""
        _write(path, os.O_CREAT | os.O_TRUNC, data)

    def truncate(self, path: Path, size: int) -> None:
        """Shorten a file; not durable before `sync`."""
        os.truncate(path, size)

    def sync(self, path: Path) -> None:
        """Make a file's content durable, whoever wrote it."""
        _sync(path)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in the place of another at once; not durable before `sync_folder`."""
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        _sync(folder)

    def lock(self, path: Path, seconds: float) -> FileLock:
        """Lock a file, made empty (0600) if it is missing. Raises TimeoutError where others hold it for too long."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        lock = FileLock(descriptor)
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TimeoutError from None
                time.sleep(_PAUSE)
            else:
                return lock


def _write(path: Path, flags: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
