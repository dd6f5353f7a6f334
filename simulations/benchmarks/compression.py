"""What compressed updates cost and save: bytes from the clinics, and AUROC, with and without `federation.compression`.

Each kind trains the same study at the same seeds. Without privacy a run differs from another of its seed by nothing but
the rounding. A private study draws other noise in each run, whatever its seed, so `none` runs twice: the difference
of the two says what noise alone does. The default is a small network on synthetic lesions; `--data` alone takes real
images, on which the last block of a pretrained network learns from stored features; any other study is asked for by its
file. With `--out` runs are kept, each in a folder of its study's digest: finished ones are not run
again, and interrupted ones go on.

    python -m melfed.simulations.benchmarks.compression [--data FOLDER] [--study STUDY] [--rounds 20] [--out RUNS]
    [--json]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from melfed.simulations.benchmarks.federation import Quiet

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol

SYNTHETIC = """\
name: compression
data: {image_size: 48, phantom: {images: 1600, clinics: 4}}
partition: {by: iid, clinics: 4}
model: {backbone: simple_cnn, pretrained: false, train: full}
training: {learning_rate: 3.0e-3, batch_size: 32}
federation: {rounds: 8}
"""
REAL = """\
name: compression
data: {image_size: 128}
partition: {by: source, validation: 0.1, test: 0.2}
model: {backbone: efficientnet_lite0, train: last_block}
training:
  optimizer: sgd
  learning_rate: 5.0e-3
  weight_decay: 1.0e-4
  gradient_norm: 10.0
  schedule: cosine
  warmup_steps: 0
  batch_size: 32
  local_epochs: 0.1
  positive_weight: 3.0
  augment: false
federation: {rounds: 30, algorithm: fedavgm, server_momentum: 0.8, validate_every: 30}
"""
"""As the study `ham10000.yaml`, but for what learns: the frozen part runs once an image, so a run takes a minute."""
KINDS = ("none", "float16", "int8")
AGAIN = "none, again"
"""The second run without compression, of a private study."""


def measure(
    study_file: Path, data: Path | None, out: Path, changes: list[str], seeds: list[int]
) -> list[dict[str, Any]]:
    """Run what is missing and return a row a run: kind, seed, bytes from the clinics, pooled AUROC of the test parts.

    Args:
        study_file: what each run trains, but for `federation.compression`.
        data: folder of labelled images; None: the study's synthetic lesions.
        out: folder of the runs.
        changes: of the study's keys, as `--set` has them.
        seeds: of the study.
    """
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.build import seal
    from melfed.common.study.file import read_study
    from melfed.common.study.protocol import PhantomSection
    from melfed.common.study.recipe import resolve
    from melfed.simulations.partition.virtual_clinics import divide, phantom_folder

    rows: list[dict[str, Any]] = []
    for seed in seeds:
        study, _ = resolve(read_study(study_file, changes, seed))
        lesions = (
            phantom_folder(study, study.data.phantom or PhantomSection(), default_cache()) if data is None else data
        )
        virtual = divide(study, lesions, default_cache())
        for kind in (*KINDS, AGAIN) if study.privacy else KINDS:
            changed = seal(study.with_changes("federation", compression="none" if kind == AGAIN else kind))
            summary = _run(changed, virtual, out / f"{changed.digest[:16]}{'-again' * (kind == AGAIN)}")
            up = sum(row.bytes_up for row in summary.rounds)
            rows.append({"kind": kind, "seed": seed, "bytes_up": up, "auroc": summary.test.auroc.value})
            sys.stderr.write(f"{rows[-1]}\n")
            sys.stderr.flush()
    return rows


def _run(study: "StudyProtocol", virtual: Any, folder: Path) -> Any:
    """Return the summary of a run in a folder, begun, ended, or only read there."""
    from melfed.server.runs.folder import RunFolder
    from melfed.simulations.run import simulate

    if (folder / "summary.json").exists():
        return RunFolder.open(folder).summary()
    return simulate(study, virtual, folder, Quiet(), resume=folder.exists(), engine="local")


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, by kind, the share of the bytes, and AUROC: of each seed, their mean, and what changed from none.

    `auroc_changes` are by seed, `auroc_change` is their mean, and `auroc_spread` their standard deviation (null for
    a single seed).
    """
    exact = {row["seed"]: row for row in rows if row["kind"] == "none"}
    result: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        changes = [row["auroc"] - exact[row["seed"]]["auroc"] for row in mine]
        result[kind] = {
            "ratio": sum(row["bytes_up"] for row in mine) / sum(row["bytes_up"] for row in exact.values()),
            "auroc": [row["auroc"] for row in mine],
            "auroc_mean": statistics.fmean(row["auroc"] for row in mine),
            "auroc_changes": changes,
            "auroc_change": statistics.fmean(changes),
            "auroc_spread": statistics.stdev(changes) if len(changes) > 1 else None,
        }
    return result


def main(
    study: Annotated[Path | None, typer.Option(help="A study; else one of this file's own.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of labelled images.", show_default="synthetic")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds in place of the study's.")] = None,
    weights: Annotated[Path | None, typer.Option(help="In place of the study's model.weights.")] = None,
    seeds: Annotated[list[int], typer.Option("--seed")] = [0, 1, 2],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Folder of the runs, to keep them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure bytes and AUROC with compressed updates."""
    changes = [f"federation.rounds={rounds}"] if rounds else []
    changes += [f"model.weights={weights}"] if weights else []
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "study.yaml")
        own.write_text(REAL if data else SYNTHETIC)
        rows = measure(study or own, data, out or Path(folder), changes, seeds)
    result = summed_up(rows)
    if as_json:
        sys.stdout.write(json.dumps({"rows": rows, "kinds": result}, indent=2) + "\n")
        return
    print("\n".join(table(result)))


def table(result: dict[str, Any]) -> list[str]:
    """Return Markdown: a line a kind."""
    lines = ["| updates as | bytes up | AUROC, mean | each seed | change | its spread |"]
    lines.append("| --- " * 6 + "|")
    for kind, found in result.items():
        each = ", ".join(f"{value:.4f}" for value in found["auroc"])
        spread = "" if found["auroc_spread"] is None else f"{found['auroc_spread']:.4f}"
        lines.append(
            f"| {kind} | {found['ratio']:.3f} × | {found['auroc_mean']:.4f} | {each} | {found['auroc_change']:+.4f} | "
            f"{spread} |"
        )
    return lines


if __name__ == "__main__":
    typer.run(main)
