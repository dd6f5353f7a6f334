"""A doctor's checks as lines with ticks and crosses, and how a clinic's table was read."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from melfed.common.doctor.steps import MARKS, STYLES, Check

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from melfed.common.data.understood import Understanding


def lines(checks: Sequence[Check]) -> Iterator["Text"]:
    """Yield a line a check, its mark, its name and what was found, and below it, where there is something, what to do.

    A path in them can be copied whole: no cell of a table cuts it, and a terminal that is too narrow wraps by itself.
    Print them with `soft_wrap`.
    """
    from rich.text import Text

    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        style = STYLES[check.status]
        # Text, so that a bracket in a path is no markup.
        yield Text.assemble(
            (MARKS[check.status], style),
            (f" {check.name:{width}}", style if check.status == "failed" else ""),
            f"  {check.detail}",
        )
        if check.mend:
            yield Text(f"  {'':{width}}  → {check.mend}")


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
