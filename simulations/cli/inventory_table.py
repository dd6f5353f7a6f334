"""An inventory of a data folder as tables for the terminal."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from melfed.common.data.inventory import Inventory, SamePicture
from melfed.common.data.understood import COUNTED, sections

SHOWN = 10


def inventory_tables(inventory: Inventory) -> Iterator[Table]:
    """Yield the tables: totals, sources, what the images show, how the tables were read, and what is wrong."""
    yield _totals(inventory)
    yield _sources(inventory)
    yield _contents(inventory)
    for section in sections(inventory.understood):
        table = Table(title=section.title, title_justify="left")
        for column in section.columns:
            table.add_column(column, justify="right" if column in COUNTED else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*map(Text, row))
        yield table
    problems = _problems(inventory)
    if problems.row_count:
        yield problems


def _totals(inventory: Inventory) -> Table:
    table = _table(f"{inventory.folder}: {inventory.layout}", "", "number")
    counts = {
        "images": inventory.images,
        "melanomas": inventory.melanomas,
        "others": inventory.benign,
        "patients": inventory.patients,
        "lesions": inventory.lesions,
        f"groups (by {inventory.groups_by})": inventory.groups,
    }
    for name, count in counts.items():
        table.add_row(name, f"{count:,}" if count else "none known")
    ages = inventory.ages
    if ages.known:
        table.add_row("age", f"{ages.median:.0f} ({ages.minimum:.0f}–{ages.maximum:.0f}), known for {ages.known:,}")
    return table


def _sources(inventory: Inventory) -> Table:
    table = _table("sources", "source", "images", "melanomas", "patients", "lesions", "groups")
    for row in inventory.sources:
        counts = (row.images, row.melanomas, row.patients, row.lesions, row.groups)
        table.add_row(row.name, *(f"{count:,}" for count in counts))
    return table


def _contents(inventory: Inventory) -> Table:
    table = _table("what the images show", "", "images")
    table.add_row("diagnoses", _listed(inventory.diagnoses))
    table.add_row("sex", _listed(inventory.sexes))
    table.add_row("site", _listed(inventory.sites))
    table.add_row("age", _listed(inventory.ages.decades))
    table.add_row("missing", _listed({name: count for name, count in inventory.missing_values.items() if count}))
    return table


def _problems(inventory: Inventory) -> Table:
    table = _table("to look at", "", "number", "for example")
    findings: dict[str, Sequence[str]] = {
        "rows without image": inventory.rows_without_image,
        "images without row": inventory.images_without_row,
        "rows without a usable diagnosis": inventory.undiagnosed,
        "unreadable images": [f"{item.image}: {item.reason}" for item in inventory.unreadable],
        "identical files": [_same(picture) for picture in inventory.identical_files],
        "near duplicates": [_same(picture) for picture in inventory.near_duplicates],
        "known duplicates": [" = ".join(group) for group in inventory.known_duplicates],
    }
    for name, found in findings.items():
        if found:
            more = "\n…" if len(found) > SHOWN else ""
            table.add_row(name, f"{len(found):,}", "\n".join(found[:SHOWN]) + more)
    return table


def _same(picture: SamePicture) -> str:
    text = " = ".join(picture.images)
    if picture.patients > 1:
        text += f", of {picture.patients} patients!"
    return f"{text}, with different targets!" if picture.targets_differ else text


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name in ("for example", "images") and not first else "right")
    return table
