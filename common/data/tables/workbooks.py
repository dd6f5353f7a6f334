"""Tables in Excel workbooks and Parquet files, as columns of text."""

import datetime
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from melfed.common.data.tables.text_files import Cells
from melfed.common.errors import DataError

# What openpyxl raises on a damaged workbook, depending on the place of the damage.
_DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)

# openpyxl tells the terminal of parts that it does not read, such as styles; of cells there are errors.
warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")

HEADER_ROWS: Final = 25
"""Among so many rows from the top the header of a sheet is looked for: PH2's stands below twelve lines of text."""


@dataclass(frozen=True)
class Sheet:
    """A sheet of a workbook.

    Attributes:
        path: the workbook.
        title: the sheet's name.
        top: the texts of its uppermost rows.
    """

    path: Path
    title: str
    top: tuple[tuple[str, ...], ...]

    def below(self, header: int) -> "SheetBody":
        """Return what stands below a row, by its index."""
        return SheetBody(self.path, self.title, header + 1, len(self.top[header]))


@dataclass(frozen=True)
class SheetBody:
    """The rows of a sheet below its header.

    Attributes:
        path: the workbook.
        title: the sheet's name.
        before: how many rows stand above the first.
        width: how many cells the header has.
    """

    path: Path
    title: str
    before: int
    width: int

    def columns(self, wanted: Sequence[int]) -> tuple[list[Cells], dict[int, int]]:
        """Return some columns as text, and the rows that have more cells than the header, by index, with how many."""
        columns: list[Cells] = [[] for _ in wanted]
        long: dict[int, int] = {}
        for number, row in enumerate(self._rows):
            if any(cell is not None for cell in row[self.width :]):
                long[number] = len(row)
            for column, index in zip(columns, wanted, strict=True):
                column.append(row[index] if index < len(row) else None)
        return columns, long

    def place(self, line: int) -> str:
        """Where a line of `columns` is, as the spreadsheet counts."""
        return f"row {self.before + 1 + line}"

    @cached_property
    def _rows(self) -> list[list[str | None]]:
        with _Workbook(self.path) as workbook:
            rows = workbook[self.title].iter_rows(min_row=self.before + 1, values_only=True)
            return [[_text(value) for value in row] for row in rows]


def open_sheets(path: Path) -> list[Sheet]:
    """Look at the uppermost rows of each sheet of a workbook.

    Raises:
        DataError: the file cannot be read as a workbook.
    """
    with _Workbook(path) as workbook:
        sheets = []
        for sheet in workbook.worksheets:
            rows = sheet.iter_rows(max_row=HEADER_ROWS, values_only=True)
            top = tuple(tuple((_text(value) or "").strip() for value in row) for row in rows)
            sheets.append(Sheet(path, sheet.title, top))
        return sheets


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file: its columns that hold something that can be written as text."""

    path: Path
    header: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> "ParquetFile":
        """Look at the schema.

        Raises:
            DataError: the file cannot be read as Parquet.
        """
        import polars as pl

        try:
            schema = pl.read_parquet_schema(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unreadable(path, "a Parquet file", error) from error
        return cls(path, tuple(name for name, kind in schema.items() if not _nested(kind)))

    def columns(self, wanted: Sequence[int]) -> tuple[list[Cells], dict[int, int]]:
        """Return some columns as text; no row has too many cells."""
        import polars as pl

        names = [self.header[index] for index in wanted]
        try:
            frame = pl.read_parquet(self.path, columns=list(dict.fromkeys(names)))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unreadable(self.path, "a Parquet file", error) from error
        return [[_text(value) for value in frame[name].to_list()] for name in names], {}

    def place(self, line: int) -> str:
        """Where a line of `columns` is, from 1 on."""
        return f"row {1 + line}"


class _Workbook:
    """A workbook that is open for reading, as a context; whatever is wrong with it is a DataError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException

        try:
            self._workbook = load_workbook(self._path, read_only=True, data_only=True)
        except (InvalidFileException, *_DAMAGE) as error:
            raise _unreadable(self._path, "an Excel workbook", error) from error
        return self._workbook

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._workbook.close()
        # Rows are read as they are asked for.
        if isinstance(error, _DAMAGE):
            raise _unreadable(self._path, "an Excel workbook", error) from error


def _unreadable(path: Path, what: str, error: Exception) -> DataError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return DataError(f"{path}: cannot be read as {what} ({reason}); save it anew without a password, or as CSV UTF-8")


def _nested(kind: Any) -> bool:
    import polars as pl

    return bool(kind.is_nested()) or kind in (pl.Binary, pl.Object)


def _text(value: object) -> str | None:
    """A cell as a person reads it: whole numbers without a point, dates without a time."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.date().isoformat()
    return str(value)
