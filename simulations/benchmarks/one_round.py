"""One round, rounds, and rounds that begin at a solved head: AUROC, and seconds from study to report, of one study.

Features are stored before, by a run that does not count; then all ways run in turn, each as a whole: clinics divided,
processes started, trained, evaluated, reported.

    python -m melfed.simulations.benchmarks.one_round STUDY --data DIR --out RUNS [--weights RUN] [--epsilon E...]
    [--seed S...] [--way WAY...] [--set KEY.PATH=VALUE...] [--json]

A seed changes the division into clinics' parts and the noise.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import monotonic
from typing import Annotated, Any

import typer

from melfed.simulations.benchmarks.federation import Quiet

WAYS = {"one_round": ["federation.mode=one_round"], "rounds": [], "solved_start": ["federation.start=one_round"]}


def measure(
    study_file: Path,
    data: Path,
    out: Path,
    epsilons: list[float],
    seeds: list[int],
    weights: Path | None,
    ways: list[str],
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run each way for each seed and ε, and return a row a run: way, seed, epsilon, AUROC with limits, seconds."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        _run(study_file, data, out / f"warm-{seed}", ["federation.mode=one_round", *overrides], weights, seed)
        for epsilon in epsilons:
            for way in ways:
                changes = [f"privacy.epsilon={epsilon}", *WAYS[way], *overrides]
                folder = out / f"{way}-{epsilon:g}-{seed}"
                seconds, summary = _run(study_file, data, folder, changes, weights, seed)
                auroc = summary.test.auroc
                row = {"way": way, "seed": seed, "epsilon": epsilon, "seconds": seconds}
                rows.append(row | {"auroc": auroc.value, "low": auroc.low, "high": auroc.high})
    return rows


def _run(
    study_file: Path, data: Path, folder: Path, changes: list[str], weights: Path | None, seed: int
) -> tuple[float, Any]:
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.file import read_study
    from melfed.common.study.recipe import resolve
    from melfed.simulations.partition.virtual_clinics import divide
    from melfed.simulations.run import simulate

    stated = [*changes, *([f"model.weights={weights}"] if weights else [])]
    started = monotonic()
    study, choices = resolve(read_study(study_file, stated, seed))
    summary = simulate(study, divide(study, data, default_cache()), folder, Quiet(), choices=choices)
    return monotonic() - started, summary


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return Markdown: a line a way and ε, with means over seeds."""
    lines = ["| ε | way | AUROC, mean | each | seconds, mean |", "| --- | --- | --- | --- | --- |"]
    for epsilon in sorted({row["epsilon"] for row in rows}):
        for way in WAYS:
            chosen = [row for row in rows if (row["epsilon"], row["way"]) == (epsilon, way)]
            if chosen:
                each = ", ".join(f"{row['auroc']:.3f} ({row['low']:.3f}–{row['high']:.3f})" for row in chosen)
                auroc, seconds = (mean(row[name] for row in chosen) for name in ("auroc", "seconds"))
                lines.append(f"| {epsilon:g} | {way} | {auroc:.4f} | {each} | {seconds:.1f} |")
    return lines


def main(
    study: Annotated[Path, typer.Argument(help="A private study of a head on a public neck.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="New folder of the runs.")],
    weights: Annotated[Path | None, typer.Option(help="The public warm start, a finished run.")] = None,
    epsilons: Annotated[list[float], typer.Option("--epsilon")] = [3.0],  # noqa: B006
    seeds: Annotated[list[int], typer.Option("--seed")] = [0, 1, 2],  # noqa: B006
    ways: Annotated[list[str], typer.Option("--way", help="one_round, rounds, solved_start.")] = list(WAYS),  # noqa: B006
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the ways to a private head against each other."""
    rows = measure(study, data, out, epsilons, seeds, weights, ways, overrides)
    print(json.dumps(rows, indent=2) if as_json else "\n".join(table(rows)))


if __name__ == "__main__":
    typer.run(main)
