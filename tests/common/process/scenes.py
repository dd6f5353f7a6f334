"""Children that run a line of shell, and waiting for what they do."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from melfed.common.process.child import Child
from melfed.common.process.launcher import processes

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")


def shell(name: str, script: str, **options: object) -> Child:
    return Child(name, ("sh", "-c", script), **options)  # type: ignore[arg-type]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    return any(each.pid == pid and each.state not in "ZX" for each in processes())


def number(path: Path) -> int:
    """The number that a child writes into a file, once it is complete."""
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())
