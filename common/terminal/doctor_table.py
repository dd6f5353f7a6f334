"""A doctor's checks as a table of ticks and crosses, and how a clinic's table was read."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from melfed.common.doctor.steps import MARKS, STYLES, Check

if TYPE_CHECKING:
    from rich.table import Table

    from melfed.common.data.understood import Understanding


def render(checks: Sequence[Check]) -> "Table":
    """Return a table with a row a check: its mark, its name, what was found, and what to do."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold", no_wrap=column in ("", "check"))
    for check in checks:
        # Text, so that a bracket in a path is no markup.
        cells = (Text(MARKS[check.status]), Text(check.name), Text(check.detail), Text(check.mend))
        style = STYLES[check.status]
        cells[0].stylize(style)
        if check.status == "failed":
            cells[1].stylize(style)
        table.add_row(*cells)
    return table


def render_understood(found: "Understanding") -> Iterator["Table"]:
    """Yield tables that show how a clinic's table was read."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from melfed.common.data.understood import COUNTED, sections

    for section in sections(found):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=section.title, title_justify="left")
        for column in section.columns:
            table.add_column(column, overflow="fold", justify="right" if column in COUNTED else "left")
        for row in section.rows:
            table.add_row(*map(Text, row))
        yield table
