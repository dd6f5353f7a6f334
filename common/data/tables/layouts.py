"""From the files of a data folder to the rows of each image: strictly one row, leniently one of each patient's.

Read strictly, whatever cannot be used is an error. Read leniently, it is left out: a file by itself, a row by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from melfed.common.data.images.files import Files
from melfed.common.data.tables import class_folders
from melfed.common.data.tables.joining import joined, resolved
from melfed.common.data.tables.matching import Matched
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.tables import UNREAD, Table, TableReport, nothing_recognised, open_tables, read_lines
from melfed.common.errors import DataError


def opened(paths: Iterable[Path], strict: bool) -> list[Table]:
    """The tables in some files; leniently, without those that cannot be read where others can.

    Raises:
        DataError: no file can be read, or where `strict`, any of them cannot.
    """
    tables: list[Table] = []
    unreadable: DataError | None = None
    for path in paths:
        try:
            tables += open_tables(path, strict)
        except DataError as error:
            if strict:
                raise
            unreadable = error
    if unreadable and not any(table.truth for table in tables):
        raise unreadable
    return tables


def read_layouts(
    root: Path, files: Files, options: ReadOptions, strict: bool
) -> tuple[dict[str, list[Row]], tuple[TableReport, ...], tuple[str, ...]]:
    """The joined rows of each layout, how each table was understood, and what should be known.

    Raises:
        DataError: no table with diagnoses; where `strict`, whatever cannot be used.
    """
    if options.classes is not None:
        _, rows = class_folders.rows_of_folders(root, files.images, options.classes, strict)
        return {class_folders.LAYOUT: rows}, (), class_folders.notes_of_classes(options.classes)
    tables = opened(files.tables, strict)
    if not any(table.truth for table in tables):
        if question := class_folders.ask_for_classes(files.images):
            raise DataError(f"{root}: no table, but {question}")
        others = [PurePosixPath(path).name for path in files.not_read if PurePosixPath(path).suffix.lower() in UNREAD]
        raise DataError(f"{root}: {nothing_recognised(tables, others)}")
    layouts, reports = layouts_of(tables, options, strict)
    return layouts, reports, ()


def layouts_of(
    tables: Sequence[Table], options: ReadOptions, strict: bool
) -> tuple[dict[str, list[Row]], tuple[TableReport, ...]]:
    """The joined rows of every layout whose ground truth is among the tables, and how each table was understood.

    Raises:
        DataError: there is no ground truth; where `strict`, a row that cannot be used.
    """
    names = dict.fromkeys(table.layout for table in tables if table.layout and table.truth)
    if not names:
        raise DataError(nothing_recognised(tables))
    read = [(table, *read_lines(table, options, strict)) for table in tables if table.layout in names]
    layouts = {
        name: joined([(table, rows) for table, rows, _ in read if table.layout == name], strict) for name in names
    }
    return layouts, tuple(report for _, _, report in read)


def with_images(root: Path, files: Files, layouts: dict[str, Matched]) -> dict[str, Matched]:
    """The one layout whose rows have images, strictly.

    Raises:
        DataError: there is none, or more than one.
    """
    found = {layout: matched for layout, matched in layouts.items() if matched.found}
    if not found:
        layout, matched = next(iter(layouts.items()))
        names = [row.image for row in matched.missing]
        why = files.unread_reason(names) or (
            f"'{names[0]}' and the others are in none of its folders (links out of it are not followed); put the "
            "images into it"
        )
        raise DataError(f"{root}: {len(names)} rows ({layout}) and no image file for any of them: {why}")
    refuse_two_layouts({layout: [rows[0] for rows in matched.found.values()] for layout, matched in found.items()})
    return found


def refuse_two_layouts(layouts: Mapping[str, Sequence[Row]]) -> None:
    """Raise a DataError where tables of more than one layout have rows: one image may be in both."""
    if len(layouts) > 1:
        tables = "; ".join(f"{rows[0].table.name} is {layout}" for layout, rows in layouts.items())
        raise DataError(f"tables of {len(layouts)} layouts in one folder ({tables}); keep one of them in a folder")


def rows_by_image(matched: Sequence[Matched], strict: bool, options: ReadOptions) -> dict[str, list[Row]]:
    """The rows of each image; strictly there is one."""
    found: dict[str, list[Row]] = matched[0].found
    for part in matched[1:]:
        for path, rows in part.found.items():
            found[path] = [*found.get(path, ()), *rows]
    if not strict:
        return {path: resolved(rows, options.shared_ids) for path, rows in found.items()}
    return found
