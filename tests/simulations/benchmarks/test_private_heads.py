"""The steps of a private head in NumPy, against those that a clinic takes, and the table that is made of them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from melfed.common.study.head_steps import HeadSteps
from melfed.simulations.benchmarks.private_heads import Images, Way, auroc, main, trained
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.common.runs import finished_run, public_model
from tests.simulations.test_one_round import study_of

STEPS = HeadSteps(rounds=5, rate=0.5, momentum=0.5, average=0.4, loss=math.nan)


def clinic(seed: int, units: int = 12, norm: float = 1.0) -> Images:
    random = np.random.default_rng(seed)
    features = (random.normal(size=(2 * units, 4)) * norm).astype(np.float32)
    targets = random.integers(0, 2, 2 * units).astype(np.float32)
    return Images.of(features, targets, [f"u{number % units}" for number in range(2 * units)])


def test_a_clipped_sum_is_that_of_a_loop_over_units() -> None:
    images, head = clinic(0, norm=3.0), np.array([0.3, -0.2, 0.1, 0.5, 0.2])
    ends = [*images.starts[1:], len(images.targets)]
    total = np.zeros(5)
    for start, end in zip(images.starts, ends, strict=True):
        weight = torch.tensor(head, requires_grad=True)
        targets = torch.tensor(images.targets[start:end])
        torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(images.features[start:end]) @ weight, targets, pos_weight=torch.tensor(3.0)
        ).backward()
        assert weight.grad is not None
        gradient = weight.grad.numpy()
        total += gradient * min(1.0, 0.7 / np.linalg.norm(gradient))
    assert images.clipped_sum(head, 0.7, 3.0) == pytest.approx(total)
    assert len(ends) == 12


def test_without_noise_and_clipping_all_clinics_are_one() -> None:
    parts, way = [clinic(1), clinic(2, 30)], Way(math.inf, norm=1e9)
    ends = np.cumsum([0, len(parts[0].targets)])
    whole = Images(
        np.concatenate([each.features for each in parts]),
        np.concatenate([each.targets for each in parts]),
        np.concatenate([each.starts + end for each, end in zip(parts, ends, strict=True)]),
    )
    start, random = np.zeros(5), np.random.default_rng(0)
    together = trained([whole], start, STEPS, way, 1.0, random)
    assert trained(parts, start, STEPS, way, 1.0, random) == pytest.approx(together)
    by_square = trained(parts, start, STEPS, Way(math.inf, norm=1e9, power=2.0), 1.0, random)
    assert by_square != pytest.approx(together, rel=1e-3)
    assert not start.any(), "the start stays as it was"


def test_noise_is_that_of_all_steps_together() -> None:
    steps = HeadSteps(rounds=4, rate=1.0, momentum=0.0, average=0.0, loss=math.nan)
    nobody = Images(np.zeros((10, 3)), np.zeros(10), np.arange(10))
    heads = [
        trained([nobody], np.zeros(3), steps, Way(0.5, norm=2.0), 1.0, np.random.default_rng(seed))
        for seed in range(500)
    ]
    # Four steps, each with C √T / μ over ten units.
    assert np.std(heads) == pytest.approx(math.sqrt(4) * 2.0 * math.sqrt(4) / 0.5 / 10, rel=0.06)


def test_auroc_is_over_all_clinics() -> None:
    head = np.array([1.0, 0.0])
    low = Images(np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0.0, 1.0]), np.arange(2))
    high = Images(np.array([[2.0, 1.0], [3.0, 1.0]]), np.array([0.0, 1.0]), np.arange(2))
    assert auroc([low], head) == auroc([high], head) == 1.0
    assert auroc([low, high], head) == 0.75


def test_the_table_has_a_line_for_each_way(
    phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = finished_run(tmp_path / "public", public_model(neck=5))
    study = study_of(public, evaluation="public")
    monkeypatch.setattr("melfed.common.study.file.read_study", lambda *_: study)
    monkeypatch.setattr("melfed.simulations.partition.virtual_clinics.divide", lambda *_: phantom_clinics)
    app = Typer()
    app.command()(main)
    arguments = ["study.yaml", "--data", "none", "--epsilon", "8", "--norm", "1", "--norm", "2", "--draws", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split("|")[2:4] for line in lines[2:]] == [
        [" 1 ", " 0.5 "],
        [" 1 ", " 1 "],
        [" 2 ", " 0.5 "],
        [" 2 ", " 1 "],
    ]
    assert all(0 <= float(line.split("|")[5]) <= 1 for line in lines[2:])
