"""The figures of `melfed.simulations.benchmarks.deployment` as tables in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

TARGET_SECONDS = 1.0
"""Overhead of a round at the clinic, all but training and Flower's polling."""

PARTS = {
    "training": "training, with the validation of the model that came",
    "worker": "worker, all else: policy, ledger, storing, audit log",
    "messenger": "messenger: a process for the message, bundle check, the worker's socket",
    "transport": "transport between SuperLink and SuperNode",
    "polling": "Flower's polling, and the server's own work",
}


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print all figures that there are."""
    out = console or Console()
    about = result["machine"]
    out.print(f"{about['processor']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")
    if "rounds" in result:
        out.print(_rounds(result["rounds"]))
        out.print(_totals(result["rounds"], result["start_seconds"]))
    if "memory" in result:
        out.print(_memory(result["memory"]))
    if "large" in result:
        out.print(_large(result["large"]))


def _rounds(found: Mapping[str, Any]) -> Table:
    deployed = found["deployed"]
    table = Table(title=f"a round, median of {deployed['rounds']} rounds, seconds")
    table.add_column("")
    table.add_column("deployed", justify="right")
    table.add_column("simulated", justify="right")
    for name, words in PARTS.items():
        table.add_row(words, f"{deployed[name]:.3f}", "")
    table.add_section()
    table.add_row("the whole round", f"{deployed['round']:.3f}", f"{found['simulated_round']:.3f}")
    return table


def _totals(found: Mapping[str, Any], start: float) -> str:
    deployed = found["deployed"]
    second = deployed["second_round_overhead"]
    return (
        f"overhead at the clinic in round 2: {second:.3f} s at most (to reach: under {TARGET_SECONDS:g} s); "
        f"median {deployed['overhead']:.3f} s, largest {deployed['overhead_largest']:.3f} s\n"
        f"{found['rounds']} rounds and the final evaluation, the command: {found['run_seconds']:.1f} s "
        f"({found['run_seconds'] / found['rounds']:.2f} s a round); simulated {found['simulated_run_seconds']:.1f} s\n"
        f"start of all daemons until every clinic is online: {start:.1f} s; "
        f"tensors a round: {found['bytes_a_round'] / 1e3:.0f} kB"
    )


def _memory(found: Mapping[str, Any]) -> Table:
    marks = list(found["after"])
    table = Table(title="memory after rounds, MB: proportional (resident); of each kind the largest process")
    table.add_column("")
    for mark in marks:
        table.add_column(mark, justify="right")
    table.add_column("grown", justify="right")
    for name in found["after"][marks[-1]]:
        cells = [found["after"][mark].get(name) for mark in marks]
        shown = [f"{cell['pss_mb']:.1f} ({cell['rss_mb']:.0f})" if cell else "-" for cell in cells]
        grown = found["grown_mb"].get(name)
        table.add_row(name, *shown, f"{grown:+.1f}" if grown is not None else "-")
    return table


def _large(found: Mapping[str, Any]) -> Table:
    table = Table(title=f"a model of {found['model_mb']:.1f} MB")
    table.add_column("")
    table.add_column("", justify="right")
    seconds = ", ".join(f"{value:.1f}" for value in found["round_seconds"])
    table.add_row("rounds, seconds", seconds)
    table.add_row("a round simulated, seconds", f"{found['simulated_round']:.1f}")
    table.add_row("the run with its final evaluation, seconds", f"{found['run_seconds']:.1f}")
    for name, words in PARTS.items():
        table.add_row(f"second round: {words}", f"{found['second_round'][name]:.1f}")
    table.add_row(
        "SuperLink's database, MB: largest, at the end",
        f"{found['database_mb_peak']:.0f}, {found['database_mb_end']:.0f}",
    )
    table.add_section()
    for name, peak in found["peak_mb"].items():
        table.add_row(f"peak memory, {name}, MB", f"{peak:.0f}")
    return table
