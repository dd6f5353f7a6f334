"""What noised numbers of patients cost: exact ones in their place, and a line an ε."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from melfed.simulations.benchmarks import counts
from tests.client.guards import DATA, STUDY


def test_exact_counts_are_those_of_the_training_part() -> None:
    worker = counts._ExactCounts.__new__(counts._ExactCounts)
    worker.data, worker.study = DATA, STUDY
    found = worker._unit_counts("run")
    assert (found.parts, found.noise) == (("train",), 0.0)
    assert found.told() == {"train_units": 4, "train_positive_units": 2}


def test_a_line_an_epsilon_has_both_means_and_each_seeds_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(study: Path, data: Path, weights: Path | None, epsilons: list[float], seeds: list[int]) -> list[object]:
        return [
            {"epsilon": epsilon, "seed": seed, "counts": kind, "auroc": 0.7 + 0.01 * seed + (kind == "exact") / 10}
            for seed in seeds
            for epsilon in epsilons
            for kind in ("noised", "exact")
        ]

    app = typer.Typer()
    app.command()(counts.main)
    monkeypatch.setattr(counts, "measure", measure)
    words = ["study.yaml", "--data", str(tmp_path), "--epsilon", "1", "--seed", "0", "--seed", "2"]
    out = CliRunner().invoke(app, words, catch_exceptions=False).output
    assert out.splitlines()[-1] == "| 1 | 0.7100 | 0.8100 | 0.7000 / 0.8000; 0.7200 / 0.8200 |"
