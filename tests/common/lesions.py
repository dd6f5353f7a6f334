"""Small records, tables and folders that several tests make."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from melfed.common.data.records import LesionRecord, read_table
from melfed.common.data.tables.layouts import layouts_of, opened
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png")


def record(image: str = "a.jpg", **values) -> LesionRecord:
    nothing = dict.fromkeys(("diagnosis", "patient_id", "lesion_id", "dup_group", "age", "sex", "site"))
    return LesionRecord(**{"image": image, "target": 0, "source": "here", **nothing, **values})


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def one_line(excinfo: pytest.ExceptionInfo[DataError]) -> str:
    message = str(excinfo.value)
    assert "\n" not in message
    return message


def read_rows(tables: Sequence[Path], positive: Sequence[str] = ("mel",)) -> tuple[str, list[LesionRecord]]:
    """Return the layout and records of tables whose images are all there, named as in the tables, sorted by name."""
    with TemporaryDirectory() as root:
        names = {}
        for table in opened(tables, strict=True):
            folder = Path(root, table.path.parent.name)
            folder.mkdir(exist_ok=True)
            shutil.copy(table.path, folder)
        layouts, _ = layouts_of(opened(tables, strict=True), ReadOptions(), strict=True)
        for row in (row for rows in layouts.values() for row in rows):
            name = row.image if row.image.lower().endswith(PICTURES) else f"{row.image}.jpg"
            path = f"{row.table.path.parent.name}/{name}"
            names[path] = row.image
            touch(Path(root), path)
        found = read_table(Path(root), positive)
    records = [replace(record, image=names[record.image]) for record in found.records]
    return found.layout, sorted(records, key=lambda record: record.image)
