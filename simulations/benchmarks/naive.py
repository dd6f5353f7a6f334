"""A private study by melfed against the same one as Flower's and Opacus's documentation would write it.

Both are whole commands over the same network and the same parts of the same clinics, with as many rounds and as much
noise, taken in turn. Nothing is decoded or stored before: melfed's command begins with an empty cache. The other one
(`melfed.simulations.benchmarks.naive_apps`) runs a few rounds, and its seconds for all of them are extrapolated: what
the command took, and the mean of its rounds after the first for each further round. AUROC is compared after that few
rounds, for which melfed runs once more, at the noise of the whole study.

    python -m melfed.simulations.benchmarks.naive STUDY --data DIR --weights RUN [--rounds 3] [--seed S...] [--json]

A seed changes the division into clinics' parts and the noise.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from melfed.simulations.benchmarks.memory import MEGABYTE, run

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol
    from melfed.simulations.partition.virtual_clinics import VirtualClinics

MELFED = "from melfed.simulations.cli.main import main; main()"
APPS = "melfed.simulations.benchmarks.naive_apps"


def measure(study_file: Path, data: Path, weights: Path | None, rounds: int, seed: int) -> dict[str, Any]:
    """Return what both cost and reach at one seed.

    Args:
        study_file: a private study of rounds.
        data: folder of labelled images.
        weights: in place of the study's `model.weights`.
        rounds: how many the documentation's simulation runs, at least 2.
        seed: of the study.
    """
    from melfed.client.privacy.accounting import Mechanism, epsilon
    from melfed.client.privacy.plan import plan_of
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.build import located
    from melfed.common.study.file import read_study
    from melfed.common.study.recipe import resolve
    from melfed.simulations.partition.virtual_clinics import divide

    changes = [f"model.weights={weights.resolve()}"] if weights else []
    study, _ = resolve(read_study(study_file, changes, seed))
    plan = plan_of(study)
    step = plan.training
    few = [f"federation.rounds={rounds}", "privacy.epsilon=null", f"privacy.noise_multiplier={step.noise_multiplier!r}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, located(study), step.noise_multiplier, divide(study, data, default_cache()))
        whole = _told("melfed", _melfed(study_file, data, folder / "whole", changes, seed))
        naive = _told("naive", _naive(folder, rounds, study.federation.rounds))
        short = _told("melfed, few rounds", _melfed(study_file, data, folder / "short", [*changes, *few], seed))
    for row, number in ((naive, study.federation.rounds), (short, rounds)):
        steps = Mechanism(step.sampling_rate, step.noise_multiplier, number * step.steps)
        row["epsilon"] = epsilon([steps], plan.privacy.delta)
    return {
        "seed": seed,
        "rounds": study.federation.rounds,
        "measured_rounds": rounds,
        "noise_multiplier": step.noise_multiplier,
        "melfed": whole,
        "naive": naive,
        "melfed_few_rounds": short,
        "ratio": naive["seconds"] / whole["seconds"],
        "auroc_difference": short["auroc"] - naive["auroc"],
    }


def write(folder: Path, study: "StudyProtocol", sigma: float, virtual: "VirtualClinics") -> None:
    """Write what `melfed.simulations.benchmarks.naive_apps` reads: the study with its σ, and the clinics' parts."""
    from melfed.common.study.file import study_yaml
    from melfed.simulations.benchmarks.naive_apps import CLINICS, STUDY

    (folder / STUDY).write_text(study_yaml(study.with_changes("privacy", epsilon=None, noise_multiplier=sigma)))
    parts = [
        {
            part: [(str(virtual.root / record.image), record.target) for record in getattr(clinic, part)]
            for part in ("train", "validation", "test")
        }
        for clinic in virtual.clinics
    ]
    (folder / CLINICS).write_text(json.dumps(parts))


def _told(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Tell a run's figures as soon as they are there, since the next run takes minutes."""
    sys.stderr.write(f"{name}: {row}\n")
    sys.stderr.flush()
    return row


def _melfed(study_file: Path, data: Path, out: Path, changes: list[str], seed: int) -> dict[str, Any]:
    """Run melfed's command with an empty cache."""
    options = ["--data", data, "--cache", out.with_suffix(".cache"), "--out", out, "--engine", "local", "--seed", seed]
    options += [item for change in changes for item in ("--set", change)]
    started = monotonic()
    most = run([sys.executable, "-c", MELFED, "run", str(study_file), *map(str, options)])[1]
    seconds = monotonic() - started
    summary = json.loads((out / "summary.json").read_text())
    return {
        "seconds": seconds,
        "round_seconds": mean(row["seconds"] for row in summary["rounds"][1:]),
        "bytes": sum(row["bytes_up"] + row["bytes_down"] for row in summary["rounds"]),
        "memory_mb": most / MEGABYTE,
        "auroc": summary["test"]["auroc"]["value"],
        "epsilon": summary["privacy"]["epsilon_spent"],
    }


def _naive(folder: Path, rounds: int, of: int) -> dict[str, Any]:
    """Run the documentation's simulation for a few rounds; seconds and bytes are for `of` rounds, extrapolated."""
    started = monotonic()
    text, most = run([sys.executable, "-m", APPS, str(folder), str(rounds)])
    seconds = monotonic() - started
    found = json.loads(text.splitlines()[-1])
    return extrapolated(found, seconds, of) | {"memory_mb": most / MEGABYTE, "auroc": found["auroc"]}


def extrapolated(found: dict[str, Any], seconds: float, of: int) -> dict[str, Any]:
    """Return seconds and bytes of a run of `of` rounds, from those of a shorter one.

    Args:
        found: what `melfed.simulations.benchmarks.naive_apps` printed.
        seconds: of the shorter run's whole command.
        of: how many rounds.
    """
    rounds = len(found["round_seconds"])
    later = mean(found["round_seconds"][1:])
    return {
        "seconds": seconds + (of - rounds) * later,
        "measured_seconds": seconds,
        "round_seconds": later,
        "bytes": (found["bytes_down"] + found["bytes_up"]) * of // rounds,
        "engine_epsilon": found["engine_epsilon"],
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return Markdown: what each run costs and reaches, by seed."""
    lines = ["| seed | | rounds | seconds | one round | MB sent | memory, MB | AUROC | ε |"]
    lines.append("| --- " * 9 + "|")
    for row in rows:
        all_of, few = row["rounds"], row["measured_rounds"]
        kinds = {"melfed": all_of, "naive": f"{all_of}, from {few}", "melfed_few_rounds": few}
        for name, rounds in kinds.items():
            one = row[name]
            figures = f"{one['seconds']:.1f} | {one['round_seconds']:.2f} | {one['bytes'] / MEGABYTE:.1f}"
            reached = f"{one['auroc']:.4f} | {one['epsilon']:.2f}"
            lines.append(f"| {row['seed']} | {name} | {rounds} | {figures} | {one['memory_mb']:.0f} | {reached} |")
        lines.append(
            f"| {row['seed']} | ratio; AUROC after {few} rounds | | {row['ratio']:.1f} | | | | "
            f"{row['auroc_difference']:+.4f} | |"
        )
    return lines


def main(
    study: Annotated[Path, typer.Argument(help="A private study of rounds.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    weights: Annotated[Path | None, typer.Option(help="The public warm start, a finished run.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Of the documentation's simulation.")] = 3,
    seeds: Annotated[list[int], typer.Option("--seed")] = [0],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a private study against the documentation's way."""
    rows = [measure(study, data, weights, rounds, seed) for seed in seeds]
    if as_json:
        print(json.dumps({"cores": os.cpu_count(), "rows": rows, "ratio": [row["ratio"] for row in rows]}, indent=2))
        return
    print("\n".join(table(rows)))


if __name__ == "__main__":
    typer.run(main)
