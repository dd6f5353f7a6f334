"""Tables as text: encodings, separators, quotes. Only what the first line says decides how the others are read.

Quotes may hold ends of lines, so one line whose quotes never end takes the following ones into its last cell. Where no
row may change what becomes of another (`apart`), each line is a row by itself: one with such quotes cannot be used.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from melfed.common.data.tables.coded import Coded
from melfed.common.errors import DataError

if TYPE_CHECKING:
    import polars as pl

Cells = list[str | None]
"""A column."""

SEPARATORS: Final = (",", ";", "\t", "|")
PH2_SEPARATOR: Final = "||"
"""Around each cell of `PH2_dataset.txt`; the legend below the table has none."""

_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_FIRST_BYTES: Final = 1 << 16
_LONGEST_CELL: Final = 1 << 24
_PART: Final = 1 << 20
_SAMPLE: Final = 2048
_FEW: Final = 1024
_SEPARATOR_LINE: Final = re.compile(r"\"?sep=(.)\"?", re.IGNORECASE)


@dataclass(frozen=True)
class TextFile:
    """A table in a text file.

    Attributes:
        path: the file.
        separator: what stands between cells.
        header: the cells of the first line that holds any.
        before: physical lines above the first that is no header.
        plain: whether it looks like UTF-8 with line feeds.
        apart: whether each line is a row by itself, whatever quotes it holds.
    """

    path: Path
    separator: str
    header: tuple[str, ...]
    before: int
    plain: bool = False
    apart: bool = False

    @classmethod
    def open(cls, path: Path, apart: bool = False) -> "TextFile":
        """Look at the first line of a file.

        Args:
            path: the file.
            apart: whether each line below the header is a row by itself.

        Raises:
            DataError: the file cannot be read.
        """
        start = _beginning(path)
        text = _unified(decoded(start))
        separator, skipped = _said_separator(text)
        body = text.split("\n", skipped)[-1]
        if PH2_SEPARATOR in body.split("\n", 1)[0]:
            return cls(path, PH2_SEPARATOR, _ph2_cells(body.split("\n", 1)[0]), skipped + 1, apart=apart)
        separator = separator or _separator_of(body)
        header, lines = _first_cells(body, separator)
        plain = not start.startswith(tuple(mark for mark, _ in _MARKS[1:])) and b"\0" not in start and b"\n" in start
        return cls(path, separator, header, skipped + lines, plain, apart)

    @cached_property
    def text(self) -> str:
        """All of the file, with line feeds between its lines."""
        with _opened(self.path) as file:
            return _unified(decoded(file.read()))

    @classmethod
    def first_lines(cls, path: Path) -> list[list[str]]:
        """The cells of the lines at the beginning of a file with commas, blank lines left out.

        Raises:
            DataError: the file cannot be read.
        """
        text = _unified(decoded(_beginning(path)))
        return [line.split(",") for line in text.split("\n") if line.strip()]

    def without_header(self, columns: Sequence[str]) -> "TextFile":
        """Return the same file where its first line is no header but cells, with commas between them."""
        return replace(self, before=self.before - 1, header=tuple(columns), separator=",")

    def columns(self, wanted: Sequence[int]) -> tuple[list[Cells], Mapping[int, int | None]]:
        """Return the cells of some columns below the header, and the lines that have too many cells.

        Args:
            wanted: indices of columns.

        Returns:
            A list a column, of equal lengths, a blank line included as a line of nothing; and by index of the line how
            many cells it has, for lines with more than the header; None for lines `apart` whose quotes do not end.
        """
        if self.separator == PH2_SEPARATOR or not wanted:
            return self._exact(self._body, wanted)
        if self.apart:
            return self._line_by_line(self._body, wanted)
        fast = self._fast(self.path, self.before, wanted) if self.plain else None
        below = _line_feeds(self.path) - self.before if fast is not None else 0
        if fast is None and (body := self._body):
            fast = self._fast(io.BytesIO(body.encode("utf-8", "replace")), 0, wanted)
            below = body.count("\n")
        if fast is None or len(fast[0]) < below:  # a line reaches into the next one
            return self._exact(self._body, wanted)
        return fast, {}

    def place(self, line: int) -> str:
        """Where a line of `columns` ends in the file, as a text editor counts."""
        return f"line {self._numbers[line]}"

    @cached_property
    def _numbers(self) -> Sequence[int]:
        if self.apart and self.separator != PH2_SEPARATOR:
            return range(self.before + 1, self.before + 2 + self._body.count("\n"))
        return [self.before + number for number, _ in _records(self._body, self.separator)]

    @property
    def _body(self) -> str:
        return self.text.split("\n", self.before)[-1] if self.text.count("\n") >= self.before else ""

    def _fast(self, file: Path | io.BytesIO, before: int, wanted: Sequence[int]) -> list[Cells] | None:
        """The columns as polars reads them; None where it objects to anything."""
        import polars as pl

        try:
            frame = pl.read_csv(
                file,
                has_header=False,
                skip_lines=before,
                separator=self.separator,
                schema={str(index): pl.String for index in range(len(self.header))},
                columns=list(dict.fromkeys(wanted)),
                raise_if_empty=False,
            )
        except (pl.exceptions.PolarsError, OSError):
            return None
        return _lists(frame, wanted)

    def _line_by_line(self, body: str, wanted: Sequence[int]) -> tuple[list[Cells], dict[int, int | None]]:
        """The columns where no line can reach into another."""
        if body and '"' not in body:
            fast = self._fast(io.BytesIO(body.encode("utf-8", "replace")), 0, wanted)
            if fast is not None:
                return fast, {}
        columns: list[Cells] = [[] for _ in wanted]
        unusable: dict[int, int | None] = {}
        for number, line in enumerate(body.removesuffix("\n").split("\n") if body else ()):
            cells, ended = _cells_of_line(line, self.separator)
            if not ended:
                unusable[number] = None
            elif len(cells) > len(self.header) and any(cell.strip() for cell in cells[len(self.header) :]):
                unusable[number] = len(cells)
            for column, index in zip(columns, wanted, strict=True):
                column.append((cells[index] or None) if index < len(cells) else None)
        return columns, unusable

    def _exact(self, body: str, wanted: Sequence[int]) -> tuple[list[Cells], dict[int, int | None]]:
        """The columns as the csv module reads them, which minds neither stray quotes nor lines of other lengths.

        A stray quote that takes in the lines below it is minded: they would be gone without a word.
        """
        columns: list[Cells] = [[] for _ in wanted]
        long: dict[int, int | None] = {}
        lines, start = body.split("\n"), 0
        for number, (end, cells) in enumerate(_records(body, self.separator)):
            if end > start + 1 and not _ends_well(lines[start:end], self.separator):
                long[number] = None
            elif any(cell.strip() for cell in cells[len(self.header) :]):
                long[number] = len(cells)
            start = end
            for column, index in zip(columns, wanted, strict=True):
                column.append((cells[index] or None) if index < len(cells) else None)
        return columns, long


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend it or move it away") from error


def _beginning(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(_FIRST_BYTES)


def _line_feeds(path: Path) -> int:
    with _opened(path) as file:
        return sum(part.count(b"\n") for part in iter(partial(file.read, _PART), b""))


def decoded(data: bytes) -> str:
    """Return the text of a file: by its byte order mark, else UTF-8, else, line by line, Windows-1252.

    Line by line, so that one line in another encoding changes no other.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if b"\0" in data[:4]:  # UTF-16 of Latin letters without a mark
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "\n".join(_decoded_line(line) for line in data.split(b"\n"))


def _decoded_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def _unified(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _said_separator(text: str) -> tuple[str | None, int]:
    """The separator that the first line names for Excel (`sep=;`), and how many lines stand before the header."""
    lines = text.split("\n", 32)
    blank = next((number for number, line in enumerate(lines) if line.strip()), 0)
    found = _SEPARATOR_LINE.fullmatch(lines[blank].strip(" \r")) or _SEPARATOR_LINE.fullmatch(lines[blank])
    return (found[1], blank + 1) if found else (None, blank)


def _separator_of(body: str) -> str:
    """The separator that parts the header into most cells."""
    return max(SEPARATORS, key=lambda separator: len(_first_cells(body, separator)[0]))


def _first_cells(body: str, separator: str) -> tuple[tuple[str, ...], int]:
    for number, cells in _records(body, separator):
        if any(cell.strip() for cell in cells):
            return tuple(cell.strip() for cell in cells), number
    return (), 0


def _records(body: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line, and the number of physical lines up to its end."""
    if separator == PH2_SEPARATOR:
        table = (line for line in body.split("\n"))
        yield from ((n, list(_ph2_cells(line))) for n, line in enumerate(table, 1) if line.lstrip().startswith("||"))
        return
    csv.field_size_limit(max(_LONGEST_CELL, len(body) + 2))
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator)
    for cells in reader:
        yield reader.line_num, cells


def _ends_well(lines: Sequence[str], separator: str) -> bool:
    """Whether quotes that hold ends of lines are closed, and followed by a separator or the end of a line."""
    if separator == PH2_SEPARATOR:
        return True
    try:
        list(csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True))
    except csv.Error:
        return False
    return True


def _cells_of_line(line: str, separator: str) -> tuple[list[str], bool]:
    """The cells of a line by itself, and whether its quotes began in it and ended in it."""
    if '"' not in line:
        return line.split(separator), True
    csv.field_size_limit(max(_LONGEST_CELL, len(line) + 2))
    reader = csv.reader((f"{line}\n", "\n"), delimiter=separator)
    cells = next(reader)
    # An open quote takes the empty line too; where a cell of several lines ends, quotes are odd.
    return cells, reader.line_num == 1 and line.count('"') % 2 == 0


def _ph2_cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split(PH2_SEPARATOR))


def _lists(frame: "pl.DataFrame", wanted: Sequence[int]) -> list[Cells]:
    columns = {name: _cells(frame[name]) for name in frame.columns}
    return [columns[str(index)] for index in wanted]


def _cells(column: "pl.Series") -> Cells:
    """The texts of a column; where few are different, with the codes by which `coded.each` goes."""
    import polars as pl

    if column.head(_SAMPLE).n_unique() > _FEW:
        return column.to_list()
    values = column.drop_nulls().unique()
    codes = column.cast(pl.Enum(values)).to_physical().cast(pl.UInt32).fill_null(len(values))
    return Coded([*values.to_list(), None], codes.to_numpy())
