"""What privacy costs in AUROC: a private study at several ε and seeds, in one table and one figure.

Every run is a whole federated run with its own partition, noise and ledgers; finished ones are kept and not run again.

    python -m melfed.simulations.benchmarks.utility STUDY --data DIR --out RUNS [--weights RUN] [--reference RUN...]
    [--json]

A seed changes the division into clinics' parts and the noise. Intervals are those of each run's own test set (95 %).
`--reference` names finished non-private federated runs to hold the curve against.
"""

import json
import math
import sys
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from melfed.simulations.benchmarks.federation import Quiet

EPSILONS = (1.0, 3.0, 8.0, math.inf)
COLOUR = "#0067a8"


def measure(
    study_file: Path, data: Path, out: Path, epsilons: list[float], seeds: list[int], weights: Path | None
) -> list[dict[str, Any]]:
    """Run what is missing and return a row a run: epsilon, seed, AUROC and AUPRC with their limits, ε spent."""
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.file import read_study
    from melfed.common.study.recipe import resolve
    from melfed.server.runs.folder import RunFolder
    from melfed.simulations.partition.virtual_clinics import divide
    from melfed.simulations.run import simulate

    rows = []
    changes = [f"model.weights={weights}"] if weights else []
    for seed in seeds:
        for epsilon in epsilons:
            folder = out / f"epsilon-{epsilon:g}-seed-{seed}"
            if not (folder / "summary.json").exists():
                # Without noise all else stays as the recipe chose it, so the curve shows the noise alone.
                noise = ["privacy.epsilon=null", "privacy.noise_multiplier=0"]
                stated = [f"privacy.epsilon={epsilon}"] if math.isfinite(epsilon) else noise
                study, _ = resolve(read_study(study_file, [*changes, *stated], seed))
                virtual = divide(study, data, default_cache())
                simulate(study, virtual, folder, Quiet(), resume=folder.exists())
            rows.append(_row(RunFolder.open(folder), epsilon, seed))
            sys.stderr.write(f"ε {epsilon:g}, seed {seed}: AUROC {rows[-1]['auroc']:.3f}\n")
    return rows


def _row(folder: Any, epsilon: float, seed: int) -> dict[str, Any]:
    summary = folder.summary()
    row: dict[str, Any] = {"epsilon": epsilon if math.isfinite(epsilon) else None, "seed": seed}
    row["epsilon_spent"] = summary.privacy.epsilon_spent if summary.privacy else None
    for name in ("auroc", "auprc"):
        interval = getattr(summary.test, name)
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def figure(rows: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    """Return an SVG of AUROC against ε: each run, its interval, and the mean; the reference as a line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    epsilons = sorted({_position(row) for row in rows})
    drawn, svg = Figure(figsize=(6.4, 4.8), layout="constrained"), StringIO()
    axes = drawn.subplots()
    axes.set(xlabel="ε", ylabel="AUROC", xlim=(-0.5, len(epsilons) - 0.5))
    axes.set_xticks(range(len(epsilons)), ["∞" if math.isinf(epsilon) else f"{epsilon:g}" for epsilon in epsilons])
    axes.grid(alpha=0.3)
    middle = mean(row["seed"] for row in rows)
    for row in rows:
        x, value = epsilons.index(_position(row)) + 0.12 * (row["seed"] - middle), row["auroc"]
        axes.errorbar(x, value, [[value - row["auroc_low"]], [row["auroc_high"] - value]], fmt="o", color=COLOUR)
    axes.plot([mean(row["auroc"] for row in rows if _position(row) == epsilon) for epsilon in epsilons], color=COLOUR)
    if reference:
        level = mean(row["auroc"] for row in reference)
        axes.axhline(level, color="dimgray", linestyle="--")
        axes.annotate("federated, not private", (-0.45, level), (0, 5), textcoords="offset points")
    with rc_context({"svg.hashsalt": "utility"}):
        drawn.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def _position(row: dict[str, Any]) -> float:
    return math.inf if row["epsilon"] is None else float(row["epsilon"])


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return Markdown: a line an ε, the mean over seeds, and each seed's values with their intervals."""
    seeds = sorted({row["seed"] for row in rows})
    lines = ["| ε | AUROC, mean | AUPRC, mean | " + " | ".join(f"seed {seed}: AUROC; AUPRC" for seed in seeds) + " |"]
    lines.append("| --- " * (3 + len(seeds)) + "|")
    for epsilon in sorted({_position(row) for row in rows}):
        chosen = sorted((row for row in rows if _position(row) == epsilon), key=lambda row: row["seed"])
        means = [f"{mean(row[name] for row in chosen):.3f}" for name in ("auroc", "auprc")]
        cells = [f"{_interval(row, 'auroc')}; {_interval(row, 'auprc')}" for row in chosen]
        lines.append("| " + " | ".join(["∞" if math.isinf(epsilon) else f"{epsilon:g}", *means, *cells]) + " |")
    return lines


def _interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})"


def main(
    study: Annotated[Path, typer.Argument(help="A private study.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, and of utility.svg.")],
    weights: Annotated[Path | None, typer.Option(help="The public warm start, a finished run.")] = None,
    epsilons: Annotated[list[float], typer.Option("--epsilon", help="inf: no noise.")] = list(EPSILONS),  # noqa: B006
    seeds: Annotated[list[int], typer.Option("--seed")] = [0, 1, 2],  # noqa: B006
    reference: Annotated[list[Path], typer.Option(help="A finished non-private run.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure AUROC and AUPRC of a private study at several ε and seeds."""
    from melfed.common.files import write_text
    from melfed.server.runs.folder import RunFolder

    rows = measure(study, data, out, epsilons, seeds, weights)
    others = [_row(RunFolder.open(run), math.inf, index) for index, run in enumerate(reference)]
    write_text(out / "utility.svg", figure(rows, others))
    if as_json:
        print(json.dumps({"runs": rows, "reference": others}, indent=2))
        return
    print("\n".join(table(rows)))
    for row in others:
        print(f"reference {row['seed']}: AUROC {_interval(row, 'auroc')}, AUPRC {_interval(row, 'auprc')}")


if __name__ == "__main__":
    typer.run(main)
