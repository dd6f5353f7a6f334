"""Tables of a data folder: opened, recognised by their columns, their lines read by the reader of their kind."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

from melfed.common.data.readers import KINDS
from melfed.common.data.readers.kinds import ANY_ID, NO_ID, TableKind
from melfed.common.data.tables.columns import NAMES, column_key, near_names
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.text_files import Cells, TextFile
from melfed.common.data.tables.workbooks import ParquetFile, Sheet, open_sheets
from melfed.common.errors import DataError

WORKBOOKS: Final = frozenset({".xlsx", ".xlsm"})
PARQUET: Final = frozenset({".parquet"})
UNREAD: Final = frozenset({".xls", ".ods", ".json", ".jsonl", ".xml", ".sav", ".dta", ".rds", ".feather", ".mdb"})
"""Suffixes of files that may hold a table and are not read; named where no other is found."""

_NEAR_KEYS: Final = tuple(key for keys in NAMES.values() for key in keys)
_WANTED_MEANINGS: Final = ("patient_id", "lesion_id")


class TableFile(Protocol):
    """What holds the cells of a table."""

    def columns(self, wanted: Sequence[int]) -> tuple[list[Cells], Mapping[int, int | None]]:
        """Return some columns, and by index of unusable lines how many cells they have; None: quotes do not end."""

    def place(self, line: int) -> str:
        """Where a line is in the file."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table in a file, its columns as they are written, and its kind (None where nobody knows the columns)."""

    path: Path
    name: str
    """File name, and the sheet where a workbook has several; for messages."""
    columns: tuple[str, ...]
    kind: TableKind | None
    file: TableFile

    @cached_property
    def folder(self) -> Path:
        """Where the file is."""
        return self.path.parent

    @property
    def layout(self) -> str | None:
        """Name of the layout the table belongs to."""
        return self.kind.layout if self.kind else None

    @property
    def truth(self) -> bool:
        """Whether the table says what its images show, rather than only adding to a table that does."""
        return self.kind is not None and self.kind.role != "addition"

    @cached_property
    def default_source(self) -> str:
        """The source of images that no column names one for."""
        return (self.kind.source if self.kind else None) or self.path.resolve().parent.name

    @cached_property
    def keys(self) -> Mapping[str, int]:
        """Index of each column by its key; of several that have one key, the first."""
        return {column_key(name): index for index, name in reversed(list(enumerate(self.columns))) if name}

    def written(self, key: str) -> str:
        """The name of a column as it is written."""
        return self.columns[self.keys[key]]

    def cells(self) -> tuple[dict[str, Cells], Mapping[int, int | None]]:
        """Return the cells of the columns that the kind reads, by key, and unusable lines as `TableFile.columns`."""
        own = (*self.kind.columns, *self.kind.optional) if self.kind else ()
        wanted = dict.fromkeys((*own, *_NEAR_KEYS))
        keys = [key for key in wanted if key in self.keys]
        columns, long = self.file.columns([self.keys[key] for key in keys])
        return dict(zip(keys, columns, strict=True)), long

    def where(self, line: int) -> str:
        """File name and place of a line, as a text editor or a spreadsheet counts; for messages."""
        return f"{self.name}, {self.file.place(line)}"

    @cached_property
    def has_patients(self) -> bool:
        """Whether it has a column of patients' ids, by its header alone."""
        return any(key in self.keys for key in (*NAMES["patient_id"], "metaclinicalpatientid"))

    def has_unique_patient(self, name: str) -> bool:
        """Whether a patient's id is unique in the layout, whatever the source."""
        return self.kind is not None and _matches(self.kind.patients, name)

    def has_unique_lesion(self, name: str) -> bool:
        """Whether a lesion's id is unique in the layout, whatever the patient."""
        return self.kind is not None and _matches(self.kind.lesions, name)


@dataclass(frozen=True)
class TableReport:
    """How a table was understood, for the people whose data it is.

    Attributes:
        table: its name.
        layout: the layout that it was taken for.
        used: by name of a column as it is written, what it was taken for.
        questions: one line for each column that is not read and may be meant for something that was not found, and for
            ids that a spreadsheet may have changed.
        unread: by what a column holds, the words in it that were not understood, with their counts. In
            `patient_id` they are marks of "not known".
        patients: by normal id of a patient, how it is spelled.
    """

    table: str
    layout: str
    used: Mapping[str, str]
    questions: tuple[str, ...]
    unread: Mapping[str, Mapping[str, int]]
    patients: Mapping[str, AbstractSet[str]]


def read_lines(table: Table, options: ReadOptions, strict: bool) -> tuple[list[Row], TableReport]:
    """Return the rows of a table whose kind is known, and how it was understood.

    Raises:
        DataError: its columns are not known, or the file cannot be read; where `strict`, also columns that may both be
            meant.
    """
    if table.kind is None:
        raise DataError(nothing_recognised([table]))
    lines = Lines(table, options, strict)
    rows = table.kind.read(lines)
    if strict and len(rows) > 1 and set(lines.patients) == {"0"}:
        # A mark of "not known", where nobody has another id. Leniently no row may change what another's id means.
        lines.unread["patient_id"] = Counter(row.patient for row in rows if row.patient is not None)
        for row in rows:
            row.patient = None
    missing = [meaning for meaning in _WANTED_MEANINGS if meaning not in lines.used.values()]
    questions = tuple(
        f"{table.name}: the column {name} is not read; if it is the {meaning}, call it so"
        for name, meaning in near_names(table.columns, lines.used, missing)
    ) + tuple(lines.doubts)
    unread = {meaning: dict(counts.most_common()) for meaning, counts in lines.unread.items()}
    return rows, TableReport(table.name, table.kind.layout, dict(lines.used), questions, unread, lines.patients)


def open_tables(path: Path, strict: bool = True) -> list[Table]:
    """Look at the columns of a file; a workbook has a table a sheet that holds something.

    Args:
        path: the file.
        strict: whether cells may hold ends of lines; where not, each line of a text file is read by itself alone.

    Raises:
        DataError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in WORKBOOKS:
        sheets = [sheet for sheet in open_sheets(path) if any(any(row) for row in sheet.top)]
        return [_of_sheet(sheet, alone=len(sheets) == 1) for sheet in sheets]
    if suffix in PARQUET:
        parquet = ParquetFile.open(path)
        return [Table(path, path.name, parquet.header, _kind(parquet.header), parquet)]
    text = TextFile.open(path, apart=not strict)
    lines = TextFile.first_lines(path)
    if bare := next((kind for kind in KINDS if kind.headerless and kind.reads(lines)), None):
        return [Table(path, path.name, bare.columns, bare, text.without_header(bare.columns))]
    return [Table(path, path.name, text.header, _kind(text.header), text)]


def nothing_recognised(tables: Sequence[Table], others: Iterable[str] = ()) -> str:
    """Say what is there where no table has diagnoses, and which columns are known.

    Args:
        tables: those that were opened.
        others: names of files that may hold tables and are not read.
    """
    if additions := [f"{table.name} only adds to {table.layout}" for table in tables if table.kind]:
        return f"no table with diagnoses ({short_list(additions, 4)}); put the ground truth beside it"
    seen = [f"{table.name} has {short_list(table.columns, 8)}" for table in tables if table.columns]
    seen += [f"{name} is not read: save it as CSV UTF-8 or .xlsx" for name in others]
    known = ", ".join(dict.fromkeys(kind.layout for kind in KINDS))
    return (
        f"no table with known columns ({short_list(seen, 4) or 'no table at all'}); known are those of {known}; for a "
        "table of your own call the columns image, and target (1: melanoma) or diagnosis"
    )


def short_list(names: Sequence[str], most: int = 12) -> str:
    """Names with commas between them, the rest counted where there are many."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _matches(pattern: re.Pattern[str], name: str) -> bool:
    return pattern is ANY_ID or (pattern is not NO_ID and pattern.fullmatch(name) is not None)


def _kind(columns: Sequence[str]) -> TableKind | None:
    keys = {column_key(name) for name in columns}
    return next((kind for kind in KINDS if kind.knows(keys)), None)


def _of_sheet(sheet: Sheet, alone: bool) -> Table:
    """The table of a sheet: its header is the first of the uppermost rows that is a known one, else the first."""
    name = sheet.path.name if alone else f"{sheet.path.name} ({sheet.title})"
    for number, row in enumerate(sheet.top):
        if kind := _kind(row):
            return Table(sheet.path, name, row, kind, sheet.below(number))
    number, row = next((number, row) for number, row in enumerate(sheet.top) if any(row))
    return Table(sheet.path, name, row, None, sheet.below(number))
