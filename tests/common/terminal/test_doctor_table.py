"""A doctor's checks as a table."""

from pathlib import Path

from rich.console import Console

from melfed.common.doctor.steps import Check
from melfed.common.terminal.doctor_table import render


def test_a_mark_a_row_and_no_markup(tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(render([Check("ports", "failed", "[in use]", "stop it")]))
    text = console.export_text()
    assert "✗" in text
    assert "[in use]" in text
