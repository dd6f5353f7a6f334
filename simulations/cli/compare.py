"""`melfed-sim compare`: a grid over a study's keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.errors import StudyError
from melfed.common.terminal.console import NOTICE, errors, output
from melfed.simulations.cli.options import Cache, Classes, Data, Diagnoses, Links, SharedIds, WeightsDir

if TYPE_CHECKING:
    from melfed.simulations.comparison.finding import Finding


def compare(
    comparison: Annotated[Path, typer.Argument(help="Grid over a study's keys, a YAML file.", show_default=False)],
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison to make.", show_default="comparisons/NAME-TIME")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out: run what is unfinished, failed, or new in the grid.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="Cells at the most.")] = 500,
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the study of all cells.")
    ] = [],  # noqa: B006 (typer copies it)
    ray_address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.", show_default=False)] = None,
    weights_dir: WeightsDir = None,
    cache: Cache = None,
    diagnoses: Diagnoses = [],  # noqa: B006 (typer copies it)
    shared_ids: SharedIds = False,
    classes: Classes = None,
    links: Links = "inside",
) -> None:
    """Run every cell of a grid over a study's keys, and compare them on the same test patients.

    Each cell is a run folder below --out, which gets results.parquet, results.csv, comparison.html and comparison.pdf.
    Leaves with 20 and the number of cells that have no result.
    """
    from melfed.common.data.read_options import read_options
    from melfed.simulations.api.compare import compare as run_comparison
    from melfed.simulations.api.compare import folder_of
    from melfed.simulations.comparison.comparison import check

    if resume and out is None:
        raise StudyError("--resume goes on with a comparison's folder; name it with --out")
    out = out or folder_of(comparison)
    found = run_comparison(
        comparison,
        data,
        out=out,
        resume=resume,
        most=most,
        overrides=overrides,
        weights_dir=weights_dir,
        cache=cache,
        ray_address=ray_address,
        options=read_options(diagnoses, shared_ids, classes, links),
    )
    _print_comparison(found)
    output.print(f"report: {out / 'comparison.html'}", soft_wrap=True, markup=False)
    check(found, out)


def _print_comparison(found: "Finding") -> None:
    """Print the table of a comparison, and where there are several sources that of what holds within them."""
    from rich.table import Column, Table

    from melfed.simulations.comparison.report.tables import result_table, source_table

    made = result_table(found)
    heads = [f"{span}: {name}" for span, number in made.spans for name in made.columns[1 : number + 1]]
    shown = [(made, (made.columns[0], *heads))]
    if any(result.by_source for result in found.results):
        shown.append((own := source_table(found), own.columns))
    for each, columns in shown:
        table = Table(*(Column(name, overflow="fold") for name in columns), title=each.caption)
        for row in each.rows:
            table.add_row(*(f"{value} ({small})" if small else value for value, small in row))
        output.print(table)
    errors.print(NOTICE, style="dim")
