"""Small records, tables and folders that several tests make."""

from pathlib import Path

import pytest

from melfed.common.data.records import LesionRecord
from melfed.common.errors import DataError


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
