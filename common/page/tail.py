"""What is added to a file of JSON lines that another process writes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

Row = dict[str, Any]


class Tail:
    """The objects in a file's lines, each yielded once; a line that is being written waits for the next look."""

    def __init__(self, path: Path, last: int | None = None) -> None:
        """Nothing is read yet.

        Args:
            path: the file, which may not be there yet.
            last: begin at most so many bytes before its end; None: at its beginning.
        """
        self.path = path
        self._last = last
        self._file: tuple[int, int] | None = None
        self._at = 0

    def began_anew(self) -> bool:
        """Tell whether the file was replaced or cut since the last look: then the next rows are its first ones."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        known, self._file = self._file, (found.st_dev, found.st_ino)
        if known == self._file and found.st_size >= self._at:
            return False
        self._at = 0 if self._last is None else self._line_after(found.st_size - self._last)
        return known is not None

    def rows(self) -> Iterator[Row]:
        """Yield what is new; whoever stops early goes on there. Lines that are no objects are left out.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._at)
            while (line := file.readline()).endswith(b"\n"):
                self._at += len(line)
                try:
                    row = from_json(line)
                except ValueError:  # damage is for `log verify` to tell
                    continue
                if isinstance(row, dict):
                    yield row

    def _line_after(self, start: int) -> int:
        """Return where the first line begins that is whole from `start` on."""
        if start <= 0:
            return 0
        with self.path.open("rb") as file:
            file.seek(start - 1, os.SEEK_SET)
            return start - 1 + len(file.readline())
