"""What privacy costs in AUROC: the table and the figure of finished runs."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from melfed.simulations.benchmarks.utility import _row, figure, table
from tests.server.fake_run import NOISED, FakeRun


def row(epsilon: float | None, seed: int, auroc: float) -> dict[str, float | None]:
    values = {"auroc": auroc, "auroc_low": auroc - 0.05, "auroc_high": auroc + 0.05}
    return {"epsilon": epsilon, "seed": seed, **values, "auprc": 0.5, "auprc_low": 0.4, "auprc_high": 0.6}


ROWS = [row(3.0, 0, 0.8), row(3.0, 1, 0.82), row(None, 0, 0.9), row(None, 1, 0.92)]


def test_a_line_an_epsilon_with_means_over_seeds_and_no_noise_last() -> None:
    assert table(ROWS[::-1]) == [
        "| ε | AUROC, mean | AUPRC, mean | seed 0: AUROC; AUPRC | seed 1: AUROC; AUPRC |",
        "| --- | --- | --- | --- | --- |",
        "| 3 | 0.810 | 0.500 | 0.800 (0.750–0.850); 0.500 (0.400–0.600) | 0.820 (0.770–0.870); 0.500 (0.400–0.600) |",
        "| ∞ | 0.910 | 0.500 | 0.900 (0.850–0.950); 0.500 (0.400–0.600) | 0.920 (0.870–0.970); 0.500 (0.400–0.600) |",
    ]


def test_the_figure_is_an_svg_and_the_same_each_time() -> None:
    drawn = figure(ROWS, [row(None, 0, 0.93)])
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert figure(ROWS, [row(None, 0, 0.93)]) == drawn
    assert figure(ROWS, []) != drawn


@pytest.mark.parametrize("epsilon", [3.0, math.inf])
def test_a_row_is_what_a_runs_summary_says(tmp_path: Path, epsilon: float) -> None:
    folder = FakeRun(clinics=("a",), images=(400,), melanoma_rates=(0.3,), privacy=NOISED).write(tmp_path / "run")
    summary = folder.summary()
    found = _row(folder, epsilon, 4)
    assert (found["epsilon"], found["seed"]) == (3.0 if epsilon == 3 else None, 4)
    assert summary.privacy is not None
    assert found["epsilon_spent"] == summary.privacy.epsilon_spent
    assert (found["auroc"], found["auprc_low"]) == (summary.test.auroc.value, summary.test.auprc.low)
