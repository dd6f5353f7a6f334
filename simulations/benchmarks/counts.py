"""What noised numbers of patients cost in AUROC: they are the clinics' weights and the divisor of their sums.

The rounds of a private study, with the clinics' own workers in this process: once as they are, once with exact numbers
in place of noised ones. Parts, σ and steps are the same; what differs is the counts' noise, and the steps' own draws.

    python -m melfed.simulations.benchmarks.counts STUDY --data DIR [--weights RUN] [--epsilon 1] [--seed 0] [--json]
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.plan import privacy_of
from melfed.client.worker.unit_counts import UnitCounts, noised
from melfed.client.worker.worker import ClinicWorker

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol
    from melfed.simulations.partition.virtual_clinics import VirtualClinics

EPSILONS = (1.0, 3.0, 8.0)


class _ExactCounts(ClinicWorker):
    """A worker that tells its numbers of units as they are."""

    def _unit_counts(self, run: str) -> UnitCounts:  # noqa: ARG002 (every run is told the same)
        parts = {"train": self.data.train}
        return UnitCounts(("train",), noised(parts, privacy_of(self.study).unit, 0.0, NoiseSource()), 0.0)


def auroc(study: "StudyProtocol", virtual: "VirtualClinics", kind: type[ClinicWorker]) -> float:
    """Return the pooled AUROC on the test parts after all rounds; the evaluation images must be declared public."""
    from melfed.client.worker.guard import Protection
    from melfed.common.metrics.noisy import metrics_of
    from melfed.common.metrics.noisy_histogram import pooled
    from melfed.common.model.classifier import trainable_tensors
    from melfed.common.study.build import build_study_classifier, located, seal
    from melfed.server.aggregation.mean import RoundMean

    study = seal(study)
    tensors = trainable_tensors(build_study_classifier(study))
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            kind(clinic, located(study), protection=Protection(Path(folder, f"{clinic.name}.jsonl")))
            for clinic in virtual.clinics
        ]
        for number in range(1, study.federation.rounds + 1):
            total = RoundMean(study.federation, tensors, study.federation.largest_clinic * len(workers))
            for worker in workers:
                reply = worker.train(tensors, number, study.digest, "run")
                total.add(worker.clinic, reply.tensors, reply.weight)
            tensors = total.mean()
        tests = [worker.evaluate(tensors, study.digest, "run")["test"] for worker in workers]
    value = metrics_of(pooled(tests)).auroc.value
    assert value is not None  # noqa: S101 (the test parts have both classes)
    return value


def measure(study_file: Path, data: Path, weights: Path | None, epsilons: list[float], seeds: list[int]) -> list[Any]:
    """Return a row a run: epsilon, seed, whether the counts were noised, and the AUROC."""
    from melfed.common.data.images.store import default_cache
    from melfed.common.study.file import read_study
    from melfed.common.study.recipe import resolve
    from melfed.simulations.partition.virtual_clinics import divide

    rows = []
    for seed in seeds:
        for epsilon in epsilons:
            changes = [f"privacy.epsilon={epsilon}", "privacy.evaluation=public"]
            changes += [f"model.weights={weights}"] if weights else []
            study, _ = resolve(read_study(study_file, changes, seed))
            virtual = divide(study, data, default_cache())
            for counts, kind in (("noised", ClinicWorker), ("exact", _ExactCounts)):
                rows.append({"epsilon": epsilon, "seed": seed, "counts": counts, "auroc": auroc(study, virtual, kind)})
                sys.stderr.write(f"{rows[-1]}\n")
    return rows


def main(
    study: Annotated[Path, typer.Argument(help="A private study.")],
    data: Annotated[Path, typer.Option(help="Folder of labelled images.")],
    weights: Annotated[Path | None, typer.Option(help="The public warm start, a finished run.")] = None,
    epsilons: Annotated[list[float], typer.Option("--epsilon")] = list(EPSILONS),  # noqa: B006
    seeds: Annotated[list[int], typer.Option("--seed")] = [0, 1, 2],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure AUROC with noised and with exact numbers of units."""
    rows = measure(study, data, weights, epsilons, seeds)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print("| ε | noised counts, mean | exact counts, mean | each seed: noised / exact |\n| --- | --- | --- | --- |")
    for epsilon in epsilons:
        of = {
            counts: [row["auroc"] for row in rows if (row["epsilon"], row["counts"]) == (epsilon, counts)]
            for counts in ("noised", "exact")
        }
        pairs = "; ".join(f"{one:.4f} / {two:.4f}" for one, two in zip(of["noised"], of["exact"], strict=True))
        print(f"| {epsilon:g} | {mean(of['noised']):.4f} | {mean(of['exact']):.4f} | {pairs} |")


if __name__ == "__main__":
    typer.run(main)
