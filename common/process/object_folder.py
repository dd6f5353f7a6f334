"""Objects of messages as files that are named by their digest: so processes of one machine hand them to each other.

One process owns the folder (SuperLink, or a clinic's SuperNode) and says which objects there are. Its neighbour (the
ServerApp, the ClientApp) reads them where they lie, and leaves its own in `handed`, from where the owner takes them
when their message is announced. So an object is written once, and neither packed into a request nor hashed again.

Files are written whole and then renamed, and are not flushed to the disk: what a power failure takes is as if it had
never come, and whoever waits for it asks for the message again.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_NAME = re.compile(r"[0-9a-f]{64}")


def _no_head(_size: int) -> bytes:
    return b""


class ObjectFolder:
    """A folder of objects (0700); other names than 64 hexadecimal digits are not in it.

    Args:
        path: the folder.
        head: of an object's size, bytes that stand before it in its file; as many for all objects of a size.
    """

    def __init__(self, path: Path, head: Callable[[int], bytes] = _no_head) -> None:
        self.path, self.handed, self._head = path, path / "handed", head

    def make(self) -> None:
        """Make the folder, where there is none. Raises OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.handed.mkdir(mode=0o700, exist_ok=True)

    def keep(self, known: Callable[[str], bool]) -> None:
        """Remove the files of objects that are not known: a process that was killed has left them. Raises OSError."""
        for path in self.path.iterdir():
            if path != self.handed and not (_NAME.fullmatch(path.name) and known(path.name)):
                path.unlink(missing_ok=True)

    def put(self, name: str, content: bytes) -> None:
        """Keep an object under its name. Raises OSError, ValueError."""
        self._write(self.path / _checked(name), content)

    def hand(self, name: str, *pieces: bytes | memoryview) -> None:
        """Leave an object, which these pieces make together, for the owner to take. Raises OSError, ValueError."""
        self._write(self.handed / _checked(name), *pieces)

    def take(self, name: str) -> bool:
        """Take an object that was left, and tell whether it was."""
        if not _NAME.fullmatch(name):
            return False
        with contextlib.suppress(OSError):
            (self.handed / name).rename(self.path / name)
            return True
        return False

    def clear_handed(self) -> None:
        """Remove what was left and not taken."""
        for path in self.handed.iterdir() if self.handed.is_dir() else ():
            with contextlib.suppress(OSError):
                path.unlink()

    def has(self, name: str) -> bool:
        """Tell whether an object is there."""
        return _NAME.fullmatch(name) is not None and (self.path / name).exists()

    def open(self, name: str) -> tuple[BinaryIO, int] | None:
        """Return an object's open file, at its first byte, and its size; None where it is not there."""
        if not _NAME.fullmatch(name):
            return None
        try:
            file = (self.path / name).open("rb")
        except OSError:
            return None
        whole = os.fstat(file.fileno()).st_size
        size = whole - len(self._head(whole))
        while size + len(self._head(size)) < whole:  # it may be shorter than that of so many bytes
            size += 1
        file.seek(whole - size)
        return file, size

    def size(self, name: str) -> int | None:
        """Return an object's size; None where it is not there."""
        opened = self.open(name)
        if opened is None:
            return None
        opened[0].close()
        return opened[1]

    def read(self, name: str, most: int = -1) -> bytes | None:
        """Return an object, or its first bytes; None where it is not there."""
        opened = self.open(name)
        if opened is None:
            return None
        with opened[0] as file:
            return file.read(most)

    def stamp(self) -> int:
        """Return what is another number when an object has come or gone since: looking at it costs no request."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def drop(self, name: str) -> None:
        """Remove an object."""
        if _NAME.fullmatch(name):
            (self.path / name).unlink(missing_ok=True)

    def draft(self, name: str, content: bytes) -> Path:
        """Write the file of an object that is not in the folder yet, to be renamed. Raises OSError, ValueError."""
        return self._draft(self.path / _checked(name), content)

    def _write(self, path: Path, *pieces: bytes | memoryview) -> None:
        self._draft(path, *pieces).replace(path)

    def _draft(self, path: Path, *pieces: bytes | memoryview) -> Path:
        draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with draft.open("wb") as file:
                file.write(self._head(sum(map(len, pieces))))
                for piece in pieces:
                    file.write(piece)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return draft


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} names no object")
    return name
