"""The file operations of a journal, one a method, so that a test can crash before, in and after each of them."""

import os
from pathlib import Path

from melfed.common.files import sync, write_all
from melfed.common.locks import FileLock, lock


class Disk:
    """A real disk. Every method raises OSError as the operating system does."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder, and those above it that are missing (0700), durably."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync(path.parent)

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
        sync(path)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in the place of another at once; not durable before `sync_folder`."""
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        sync(folder)

    def lock(self, path: Path, seconds: float) -> FileLock:
        """Lock a file, made empty (0600) if it is missing. Raises HeldError where others hold it for too long."""
        return lock(path, seconds)


def _write(path: Path, flags: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o600)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)
