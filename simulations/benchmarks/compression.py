"""What compressed updates cost and save: bytes from the clinics, and AUROC, with and without `federation.compression`.

Each kind trains the same study at the same seeds. The default is a small network on synthetic lesions; any study on a
folder of images is asked for by its file.

    python -m melfed.simulations.benchmarks.compression [--study STUDY --data FOLDER] [--rounds 20] [--json]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

STUDY = """\
name: compression
data: {image_size: 64, phantom: {images: 2000, clinics: 4}}
partition: {by: iid, clinics: 4}
model: {backbone: resnet18, pretrained: false, train: full}
training: {optimizer: sgd, learning_rate: 0.02, batch_size: 32}
federation: {rounds: 6}
"""
KINDS = ("none", "float16", "int8")


class Quiet:
    """An observer that draws nothing."""

    def __getattr__(self, name: str) -> Any:
        """Answer every call with nothing."""
        return lambda *_arguments: None


def measure(study_file: Path, data: Path | None, changes: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """Return a row a run: kind, seed, bytes from the clinics in all rounds, and the pooled AUROC of the test parts."""
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.file import read_study
    from melfed.common.study.protocol import PhantomSection
    from melfed.common.study.recipe import resolve
    from melfed.simulations.partition.virtual_clinics import divide, phantom_folder
    from melfed.simulations.run import simulate

    rows: list[dict[str, Any]] = []
    for seed in seeds:
        study, _ = resolve(read_study(study_file, changes, seed))
        lesions = (
            phantom_folder(study, study.data.phantom or PhantomSection(), default_cache()) if data is None else data
        )
        virtual = divide(study, lesions, default_cache())
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                changed = study.with_changes("federation", compression=kind)
                summary = simulate(changed, virtual, Path(folder, "run"), Quiet())
            up = sum(row.bytes_up for row in summary.rounds)
            rows.append({"kind": kind, "seed": seed, "bytes_up": up, "auroc": summary.test.auroc.value})
            sys.stderr.write(f"{rows[-1]}\n")
    return rows


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, by kind, the share of the bytes, and AUROC: of each seed, their mean, and the mean change from none."""
    exact = {row["seed"]: row for row in rows if row["kind"] == "none"}
    result: dict[str, Any] = {}
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        changes = [row["auroc"] - exact[row["seed"]]["auroc"] for row in mine]
        result[kind] = {
            "ratio": sum(row["bytes_up"] for row in mine) / sum(row["bytes_up"] for row in exact.values()),
            "auroc": [row["auroc"] for row in mine],
            "auroc_mean": statistics.fmean(row["auroc"] for row in mine),
            "auroc_change": statistics.fmean(changes),
        }
    return result


def main(
    study: Annotated[Path | None, typer.Option(help="A study; else synthetic lesions.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of labelled images, of the study.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds in place of the study's.")] = None,
    weights: Annotated[Path | None, typer.Option(help="In place of the study's model.weights.")] = None,
    seeds: Annotated[list[int], typer.Option("--seed")] = [0, 1, 2],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure bytes and AUROC with compressed updates."""
    changes = [f"federation.rounds={rounds}"] if rounds else []
    changes += [f"model.weights={weights}"] if weights else []
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "study.yaml")
        own.write_text(STUDY)
        rows = measure(study or own, data, changes, seeds)
    result = summed_up(rows)
    if as_json:
        sys.stdout.write(json.dumps({"rows": rows, "kinds": result}, indent=2) + "\n")
        return
    print("| updates as | bytes up | AUROC, mean | each seed | change |\n| --- | --- | --- | --- | --- |")
    for kind, found in result.items():
        each = ", ".join(f"{value:.4f}" for value in found["auroc"])
        print(
            f"| {kind} | {found['ratio']:.3f} × | {found['auroc_mean']:.4f} | {each} | {found['auroc_change']:+.4f} |"
        )


if __name__ == "__main__":
    typer.run(main)
