"""The benchmark against the documentation's way: which commands it runs, and what it makes of what they tell."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from melfed.client.privacy.plan import plan_of
from melfed.common.study.file import recorded_study
from melfed.common.study.recipe import resolve
from melfed.simulations.benchmarks import naive
from melfed.simulations.benchmarks.naive import extrapolated, main, table
from melfed.simulations.benchmarks.naive_apps import CLINICS, STUDY
from tests.common.runs import finished_run, public_model

PROTOCOL = """\
name: compared
model: {backbone: simple_cnn, neck: 5, train: head}
privacy: {unit: lesion, epsilon: 3.0, patients: 100}
"""
TOLD = {"round_seconds": [9.0, 4.0, 6.0], "bytes_down": 600, "bytes_up": 300, "auroc": 0.7, "engine_epsilon": 0.2}


def test_seconds_and_bytes_are_of_all_rounds() -> None:
    found = extrapolated(TOLD, 30.0, 60)
    # 30 s have three rounds in them; each of the other 57 takes as long as the second and the third in the mean.
    assert found["seconds"] == 30 + 57 * 5
    assert found["measured_seconds"] == 30
    assert found["bytes"] == 900 * 20
    assert found["engine_epsilon"] == 0.2


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run; each does nothing but to leave made-up figures."""
    ran: list[list[str]] = []

    def run(command: Sequence[str]) -> tuple[str, int]:
        ran.append(list(command))
        if naive.APPS in command:
            study = recorded_study(Path(command[3], STUDY))
            assert study.privacy is not None
            assert study.privacy.epsilon is None
            ran[-1].append(f"{study.privacy.noise_multiplier}")
            ran[-1].append(Path(command[3], CLINICS).read_text())
            return f"Flower says something\n{json.dumps(TOLD)}\n", 2_000_000
        out = Path(command[command.index("--out") + 1])
        out.mkdir()
        rounds = [{"seconds": seconds, "bytes_up": 10, "bytes_down": 10} for seconds in (3.0, 1.0, 2.0)]
        summary = {
            "rounds": rounds,
            "test": {"auroc": {"value": 0.72 if out.name == "short" else 0.85}},
            "privacy": {"epsilon_spent": 2.9},
        }
        (out / "summary.json").write_text(json.dumps(summary))
        return "", 1_000_000

    lesion = SimpleNamespace(image="images/a.jpg", target=1)
    clinic = SimpleNamespace(train=[lesion, lesion], validation=[], test=[lesion])
    virtual = SimpleNamespace(root=Path("/lesions"), clinics=[clinic])
    monkeypatch.setattr(naive, "run", run)
    monkeypatch.setattr("melfed.simulations.partition.virtual_clinics.divide", lambda *_: virtual)
    return ran


def test_all_run_in_turn_with_one_noise(commands: list[list[str]], tmp_path: Path) -> None:
    study, weights = tmp_path / "study.yaml", finished_run(tmp_path / "public", public_model(neck=5))
    study.write_text(PROTOCOL)
    app = Typer()
    app.command()(main)
    arguments = [str(study), "--data", str(tmp_path), "--weights", str(weights), "--seed", "4", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    whole, documented, short = commands
    sigma = plan_of(resolve(recorded_study(study))[0]).training.noise_multiplier
    assert f"model.weights={weights}" in whole
    assert not [item for item in whole if item.startswith("privacy.")]
    assert {f"privacy.noise_multiplier={sigma!r}", "federation.rounds=3", "privacy.epsilon=null"} <= set(short)
    assert documented[-2] == str(sigma)
    image = ["/lesions/images/a.jpg", 1]
    assert json.loads(documented[-1]) == [{"train": [image, image], "validation": [], "test": [image]}]
    caches = {command[command.index("--cache") + 1] for command in (whole, short)}
    assert len(caches) == 2
    (row,) = json.loads(done.stdout)["rows"]
    assert row["melfed"]["round_seconds"] == 1.5
    assert row["melfed"]["bytes"] == 60
    assert row["ratio"] == pytest.approx(row["naive"]["seconds"] / row["melfed"]["seconds"])
    assert row["auroc_difference"] == pytest.approx(0.02)
    assert 0 < row["melfed_few_rounds"]["epsilon"] < row["naive"]["epsilon"] < 3


def test_the_table() -> None:
    def one(seconds: float, auroc: float) -> dict[str, Any]:
        figures = {"seconds": seconds, "round_seconds": 0.5, "bytes": 2_500_000, "memory_mb": 900.0}
        return figures | {"auroc": auroc, "epsilon": 3.0}

    row = {"seed": 1, "rounds": 60, "measured_rounds": 3, "ratio": 12.5, "auroc_difference": 0.02}
    row |= {"melfed": one(10, 0.85), "naive": one(125, 0.7), "melfed_few_rounds": one(5, 0.72)}
    assert table([row])[2:] == [
        "| 1 | melfed | 60 | 10.0 | 0.50 | 2.5 | 900 | 0.8500 | 3.00 |",
        "| 1 | naive | 60, from 3 | 125.0 | 0.50 | 2.5 | 900 | 0.7000 | 3.00 |",
        "| 1 | melfed_few_rounds | 3 | 5.0 | 0.50 | 2.5 | 900 | 0.7200 | 3.00 |",
        "| 1 | ratio; AUROC after 3 rounds | | 12.5 | | | | +0.0200 | |",
    ]
