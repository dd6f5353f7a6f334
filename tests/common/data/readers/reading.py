"""What the tests of readers look at."""

import csv
from pathlib import Path

from melfed.common.data.records import LesionRecord
from tests.common.lesions import read_rows


def rows(*tables: Path) -> dict[str, LesionRecord]:
    return {record.image: record for record in read_rows(tables)[1]}


def told(records: dict[str, LesionRecord], *names: str) -> list[tuple]:
    return [tuple(getattr(record, name) for name in ("image", *names)) for record in records.values()]


def plain_rows(*paths: Path) -> list[dict[str, str]]:
    """The lines of published tables, read by the standard library."""
    return [row for path in paths for row in csv.DictReader(path.open(encoding="utf-8-sig"))]
