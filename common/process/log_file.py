"""The log file of a child process: what it prints goes through a pipe, so that the file can be turned over at any time.

The child never waits for the disk to have room: what cannot be written is dropped and counted.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

LARGEST = 10_000_000
"""Bytes after which a log is turned over."""

KEEP = 3
"""Old logs that are kept, as NAME.1 (the newest) to NAME.3."""

_PIECE = 65_536
_END_SECONDS = 2.0


class ChildLog:
    """Appends to a log (0600; its folder is made, 0700) what is written into `descriptor`. A context manager."""

    def __init__(self, path: Path, tell: Callable[[str], None], largest: int = LARGEST) -> None:
        """`tell` hears, in its own thread and once until it is mended, that the log cannot be written."""
        self.path, self._tell, self._largest = path, tell, largest
        self._lost = 0
        self._file = -1
        self._size = 0
        self._reading, self.descriptor = os.pipe()
        self._thread = threading.Thread(target=self._copy, name=f"log of {path.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write what is in the pipe; whoever still holds its other end is not waited for."""
        os.close(self.descriptor)
        self._thread.join(_END_SECONDS)

    def _copy(self) -> None:
        while piece := os.read(self._reading, _PIECE):
            try:
                self._write(piece)
            except OSError as error:
                if not self._lost:
                    self._tell(f"{self.path.name}: cannot be written: {error.strerror}; output is dropped until it can")
                self._lost += len(piece)
        os.close(self._reading)
        if self._file >= 0:
            os.close(self._file)

    def _write(self, piece: bytes) -> None:
        if self._file < 0:
            self._open()
        if self._size and self._size + len(piece) > self._largest:
            self._turn_over()
        if self._lost:
            piece = b"\n[%d bytes could not be written]\n" % self._lost + piece
        rest = memoryview(piece)
        while rest:
            written = os.write(self._file, rest)
            self._size += written
            rest = rest[written:]
        self._lost = 0

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def _turn_over(self) -> None:
        names = [self.path, *(self.path.with_name(f"{self.path.name}.{number}") for number in range(1, KEEP + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        os.close(self._file)
        self._file = -1
        self._open()
