"""Tables of a data folder: opened, recognised by their columns, and joined to one row an image."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from common.data.layouts import KINDS, Line, Row, TableKind
from common.errors import DataError


@dataclass(frozen=True)
class Table:
    """A csv file, its lower-case column names, and its kind (None where the columns are not recognised)."""

    path: Path
    columns: tuple[str, ...]
    delimiter: str
    kind: TableKind | None

    @property
    def layout(self) -> str | None:
        """Name of the layout the table belongs to."""
        return self.kind.layout if self.kind else None

    @property
    def truth(self) -> bool:
        """Whether the table says what its images show, rather than only adding to a table that does."""
        return self.kind is not None and self.kind.truth


def open_table(path: Path) -> Table:
    """Look at the first line of a csv file (comma or semicolon, with or without a byte order mark)."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = file.readline(1 << 16)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend it or move it away") from error
    delimiter = ";" if header.count(";") > header.count(",") else ","
    cells = next(csv.reader([header.rstrip("\r\n")], delimiter=delimiter), [])
    columns = tuple(cell.strip().lower() for cell in cells)
    kind = next((kind for kind in KINDS if set(kind.columns) <= set(columns)), None)
    return Table(path, columns, delimiter, kind)


def rows_by_layout(paths: Sequence[Path]) -> dict[str, list[Row]]:
    """The joined rows of every layout whose ground truth is among the tables.

    Raises:
        DataError: no table holds a ground truth, a cell cannot be used, two rows for one image, two tables that
            disagree about an image, or a table without rows.
    """
    tables = [open_table(path) for path in paths]
    layouts = dict.fromkeys(table.layout for table in tables if table.layout and table.truth)
    if not layouts:
        raise DataError(_nothing_recognised(tables))
    return {layout: _join([table for table in tables if table.layout == layout]) for layout in layouts}


def refuse_duplicate(row: Row, first: Row) -> None:
    """Raise the DataError for two rows that name one image."""
    raise DataError(f"{row.where}: a second row for '{row.image}' (the first: {first.where}); delete one of them")


def refuse_two_layouts(layouts: dict[str, list[Row]]) -> None:
    """Raise a DataError where tables of more than one layout have rows: one image may be in both."""
    if len(layouts) > 1:
        tables = "; ".join(f"{rows[0].table.name} is {layout}" for layout, rows in layouts.items())
        raise DataError(f"tables of {len(layouts)} layouts in one folder ({tables}); keep one of them in a folder")


def short_list(names: Sequence[str], most: int = 12) -> str:
    """Names with commas between them, the rest counted where there are many."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _nothing_recognised(tables: Sequence[Table]) -> str:
    if additions := [f"{table.path.name} only adds to {table.layout}" for table in tables if table.kind]:
        return f"no table with diagnoses ({short_list(additions, 4)}); put the ground truth beside it"
    known = "; ".join(f"{kind.layout}: {','.join(kind.columns)}" for kind in KINDS if kind.truth)
    seen = short_list([f"{table.path.name} has {short_list(table.columns, 8)}" for table in tables], 4)
    return f"no table with known columns ({seen or 'no csv file at all'}); known layouts are {known}"


def _join(tables: Sequence[Table]) -> list[Row]:
    """One row an image: the rows of all truths, completed from one another and from the additions."""
    joined: dict[str, Row] = {}
    for table in sorted(tables, key=lambda table: not table.truth):
        seen: dict[str, Row] = {}
        for row in _rows(table):
            # In melfed's own tables the same path below two folders is two images.
            key = f"{table.path.parent}/{row.image}" if table.layout == "melfed" else row.image
            if key in seen:
                refuse_duplicate(row, seen[key])
            seen[key] = row
            if key in joined:
                _complete(joined[key], row)
            elif table.truth:
                joined[key] = row
        if table.truth and not seen:
            raise DataError(f"{table.path.name}: no rows below its header; fill it or move it away")
    return list(joined.values())


def _rows(table: Table) -> Iterator[Row]:
    if table.kind is None:
        return
    try:
        with table.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=table.delimiter)
            next(reader, None)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) > len(table.columns):
                    raise DataError(
                        f"{table.path.name}, line {reader.line_num}: {len(cells)} cells below {len(table.columns)} "
                        "columns; put quotes around text that holds the separator"
                    )
                yield table.kind.read(Line(table.path, reader.line_num, dict(zip(table.columns, cells, strict=False))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table.path.name}: not a plain UTF-8 csv file ({error}); save it as CSV UTF-8") from error


def _complete(row: Row, other: Row) -> None:
    """Fill what the row lacks from another table's row for the same image; they must agree on what it shows."""
    for name in ("diagnosis", "target"):
        mine, theirs = getattr(row, name), getattr(other, name)
        if None not in (mine, theirs) and mine != theirs:
            raise DataError(
                f"{other.where}: {name} of '{row.image}' is {theirs}, but {mine} in {row.where}; "
                "mend one or keep one of the tables"
            )
    for item in fields(Row):
        if getattr(row, item.name) is None:
            setattr(row, item.name, getattr(other, item.name))
    row.ruled_out |= other.ruled_out
