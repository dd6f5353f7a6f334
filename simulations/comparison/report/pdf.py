"""`comparison.pdf`: the same tables, figures and words on pages to print."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfed.common.files import atomic_write
from melfed.server.report import charts
from melfed.server.report.words import NOTICE, SYNTHETIC
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.report import words
from melfed.simulations.comparison.report.figures import PLAIN, Drawn, figures
from melfed.simulations.comparison.report.tables import Table, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "comparison.pdf"
A4 = (11.69, 8.27)  # inches, on its side
ROWS = 24  # of a table, a page
LINES = 44  # of text, a page
WIDEST = 34  # characters of a cell
LARGEST = 9.0  # points of a table's letters
POINTS = 1150.0  # letters of so many points in all fit beside each other


def write_pdf(out: Path, found: Finding) -> Path:
    """Write the pages of a comparison, and return their path. Raises StorageError."""
    path = out / NAME
    with charts.settings():
        from matplotlib import rc_context
        from matplotlib.backends.backend_pdf import PdfPages

        plain = rc_context(
            {
                "text.color": PLAIN["ink"],
                "axes.labelcolor": PLAIN["ink"],
                "axes.edgecolor": PLAIN["chance"],
                "grid.color": PLAIN["grid"],
                "xtick.color": PLAIN["soft"],
                "ytick.color": PLAIN["soft"],
                "pdf.fonttype": 42,
            }
        )
        with plain, atomic_write(path) as file, PdfPages(file, metadata=_metadata(found)) as pages:
            for page in _pages(found):
                pages.savefig(page)
    return path


def _metadata(found: Finding) -> dict[str, Any]:
    return {"Title": f"{found.comparison.name}: melfed comparison", "CreationDate": None}


def _pages(found: Finding) -> Iterator["Figure"]:
    made = tables(found)
    yield from _table_pages(made[0], f"{found.comparison.name}: melfed comparison", words.lead(found), found)
    for drawn in figures(found):
        yield _figure_page(drawn)
    yield from _text_pages(words.points(found))
    for table in made[1:]:
        yield from _table_pages(table, "", "", found)


def _empty(title: str, below: str = "") -> "Figure":
    from matplotlib.figure import Figure

    page = Figure(A4)
    page.text(0.05, 0.94, title, fontsize=15, weight="bold", parse_math=False)
    page.text(0.05, 0.905, below, fontsize=9, color=PLAIN["soft"], parse_math=False)
    page.text(0.05, 0.03, NOTICE, fontsize=7, color=PLAIN["soft"], parse_math=False)
    return page


def _table_pages(table: Table, title: str, below: str, found: Finding) -> Iterator["Figure"]:
    for start in range(0, max(1, len(table.rows)), ROWS):
        page = _empty(title, f"{SYNTHETIC}. {below}" if found.data.synthetic and title else below)
        caption = "\n".join(textwrap.wrap(table.caption, 170))
        page.text(0.05, 0.885, caption, fontsize=8, color=PLAIN["soft"], va="top", parse_math=False)
        _draw_table(page, table, table.rows[start : start + ROWS])
        yield page


def _draw_table(page: "Figure", table: Table, rows: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Write a table's columns, each as wide as its longest text, in letters that let all fit."""
    cells = [[_short(f"{value} ({small})" if small else value) for value, small in row] for row in rows]
    heads = [textwrap.wrap(name, 16) or [""] for name in table.columns]
    widths = [max(len(t) for t in (*head, *(row[i] for row in cells))) + 2 for i, head in enumerate(heads)]
    size = min(LARGEST, POINTS / sum(widths))
    edges = [0.05]
    for width in widths:
        edges.append(edges[-1] + 0.9 * width / max(sum(widths), POINTS / LARGEST))
    first = 1
    for name, span in table.spans:
        page.text(edges[first], 0.815, _short(name), fontsize=size, weight="bold", parse_math=False)
        first += span
    for edge, head in zip(edges, heads, strict=False):
        page.text(edge, 0.795, "\n".join(head), fontsize=size, color=PLAIN["soft"], va="top", parse_math=False)
    for number, row in enumerate(cells):
        y = 0.72 - 0.027 * number
        for edge, text in zip(edges, row, strict=False):
            page.text(edge, y, text, fontsize=size, parse_math=False)


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _figure_page(drawn: Drawn) -> "Figure":
    page = _empty(drawn.title)
    height = min(0.68, drawn.height / 72 / A4[1] * 1.6)
    drawn.draw(page.add_axes((0.08, 0.86 - height, 0.84, height)), PLAIN)
    legend = "   ".join(f"{PLAIN_NAMES[colour]}: {name}" for colour, name in drawn.keys)
    page.text(0.05, 0.08, f"{drawn.caption} {legend}", fontsize=9, wrap=True, va="bottom", parse_math=False)
    return page


PLAIN_NAMES = {"auroc": "blue", "auprc": "green", "melanoma": "orange", "other": "grey"}


def _text_pages(points: Sequence[tuple[str, str]]) -> Iterator["Figure"]:
    lines: list[tuple[str, str]] = []
    for title, text in points:
        lines += [(title, "bold"), *((line, "normal") for line in textwrap.wrap(text, 150)), ("", "normal")]
    for start in range(0, len(lines), LINES):
        page = _empty("What may be said")
        for number, (line, weight) in enumerate(lines[start : start + LINES]):
            page.text(0.05, 0.88 - 0.0185 * number, line, fontsize=9, weight=weight, parse_math=False)
        yield page
