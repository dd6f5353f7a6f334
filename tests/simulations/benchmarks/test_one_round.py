"""One round against sixty: which runs there are, in which order, and the table that is made of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from melfed.common.errors import StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.benchmarks import one_round
from melfed.simulations.benchmarks.one_round import main, measure, table
from tests.common.runs import finished_run, public_model

STUDY = """\
name: compared
model: {backbone: simple_cnn, neck: 5, train: head}
privacy: {unit: patient, epsilon: 8.0, patients: 100}
"""
Ran = tuple[str, str, float, int]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Ran]:
    """Runs that are only written down: folder, mode, ε and seed; each has its number as AUROC."""
    found: list[Ran] = []

    def simulate(study: StudyProtocol, virtual: str, folder: Path, _observer: object, **_: object) -> Any:
        assert virtual == f"clinics of seed {study.seed}"
        assert study.privacy is not None
        assert study.privacy.epsilon is not None
        found.append((folder.name, study.federation.mode, study.privacy.epsilon, study.seed))
        value = len(found) / 100
        auroc = SimpleNamespace(value=value, low=value - 0.005, high=value + 0.005)
        return SimpleNamespace(test=SimpleNamespace(auroc=auroc))

    monkeypatch.setattr("melfed.simulations.run.simulate", simulate)
    monkeypatch.setattr(
        "melfed.simulations.partition.virtual_clinics.divide", lambda study, *_: f"clinics of seed {study.seed}"
    )
    return found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "public", public_model(neck=5))


def test_each_way_runs_in_turn_after_one_that_does_not_count(
    ran: list[Ran], study: Path, weights: Path, tmp_path: Path
) -> None:
    rows = measure(study, tmp_path / "data", tmp_path / "out", [1.0, 3.5], [0, 4], weights, ["one_round", "rounds"])
    expected = []
    for seed in (0, 4):
        expected.append((f"warm-{seed}", "one_round", 8.0, seed))
        for epsilon in (1.0, 3.5):
            expected.append((f"one_round-{epsilon:g}-{seed}", "one_round", epsilon, seed))
            expected.append((f"rounds-{epsilon:g}-{seed}", "federated", epsilon, seed))
    assert ran == expected
    assert [(row["way"], row["epsilon"], row["seed"]) for row in rows] == [
        (name.partition("-")[0], epsilon, seed) for name, _, epsilon, seed in expected if not name.startswith("warm")
    ]
    assert [row["auroc"] for row in rows] == [0.02, 0.03, 0.04, 0.05, 0.07, 0.08, 0.09, 0.1]
    assert rows[0]["low"] == pytest.approx(0.015)
    assert rows[0]["high"] == pytest.approx(0.025)
    assert all(row["seconds"] > 0 for row in rows)


def test_the_table_has_means_over_seeds() -> None:
    def row(way: str, epsilon: float, auroc: float, seconds: float) -> dict[str, Any]:
        low, high = auroc - 0.1, auroc + 0.05
        return {"way": way, "epsilon": epsilon, "auroc": auroc, "low": low, "high": high, "seconds": seconds}

    rows = [row("rounds", 3.0, 0.8, 60.0), row("one_round", 3.0, 0.7, 2.0), row("one_round", 3.0, 0.75, 5.0)]
    rows.append(row("one_round", 0.5, 0.6, 1.0))
    assert table(rows) == [
        "| ε | way | AUROC, mean | each | seconds, mean |",
        "| --- | --- | --- | --- | --- |",
        "| 0.5 | one_round | 0.6000 | 0.600 (0.500–0.650) | 1.0 |",
        "| 3 | one_round | 0.7250 | 0.700 (0.600–0.750), 0.750 (0.650–0.800) | 3.5 |",
        "| 3 | rounds | 0.8000 | 0.800 (0.700–0.850) | 60.0 |",
    ]


def test_the_command_prints_rows_or_their_table(ran: list[Ran], study: Path, weights: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    arguments = [str(study), "--data", str(tmp_path), "--out", str(tmp_path), "--weights", str(weights)]
    arguments += ["--seed", "2", "--epsilon", "2", "--way", "one_round"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["way"], row["seed"], row["epsilon"], row["auroc"]) == ("one_round", 2, 2.0, 0.02)
    assert [name for name, *_ in ran] == ["warm-2", "one_round-2-2"]
    printed = CliRunner().invoke(app, arguments).stdout
    assert printed.splitlines()[-1].startswith("| 2 | one_round | 0.0400 | 0.040 (0.035–0.045) |")
    assert one_round.WAYS.keys() == {"one_round", "rounds", "solved_start"}


def test_a_change_is_one_of_every_run(ran: list[Ran], study: Path, weights: Path, tmp_path: Path) -> None:
    changes = ["privacy.evaluation=public", "seed=3"]
    measure(study, tmp_path / "data", tmp_path / "out", [1.0], [3], weights, ["solved_start"], changes)
    assert [row[:3] for row in ran] == [("warm-3", "one_round", 8.0), ("solved_start-1-3", "federated", 1.0)]
    with pytest.raises(StudyError, match=r"privacy\.units"):
        measure(study, tmp_path / "data", tmp_path / "out", [1.0], [3], weights, [], ["privacy.units=1"])
