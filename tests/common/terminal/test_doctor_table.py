"""A doctor's checks as lines."""

from io import StringIO

from rich.console import Console

from melfed.common.doctor.steps import Check
from melfed.common.terminal.doctor_table import lines

PATH = "/srv/" + "a-folder-with-a-long-name/" * 12 + "clinic.yaml"


def printed(*checks: Check, width: int = 60) -> list[str]:
    file = StringIO()
    console = Console(width=width, file=file, highlight=False)
    for line in lines(checks):
        console.print(line, soft_wrap=True)
    return file.getvalue().splitlines()


def test_a_mark_a_line_and_no_markup() -> None:
    assert printed(Check("ports", "failed", "[in use]", "stop it"), Check("clock", "ok", "right")) == [
        "✗ ports  [in use]",
        "         → stop it",
        "✓ clock  right",
    ]


def test_a_path_longer_than_the_terminal_can_be_copied_whole() -> None:
    found, mend = printed(Check("data", "failed", f"{PATH} is missing", f"chown melfed-data {PATH}"))
    assert f"{PATH} is missing" in found
    assert mend.endswith(f"chown melfed-data {PATH}")
