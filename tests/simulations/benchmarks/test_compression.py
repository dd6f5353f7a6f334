"""The benchmark of compressed updates: which runs it asks for, and what it makes of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.benchmarks import compression

BYTES = {"none": 1000, "float16": 500, "int8": 250}
LOST = {"none": 0.0, "float16": 0.001, "int8": -0.004}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[StudyProtocol]:
    """Studies that were run, by a simulation that gives made-up figures."""
    runs: list[StudyProtocol] = []

    def simulate(study: StudyProtocol, *_: object) -> SimpleNamespace:
        runs.append(study)
        kind = study.federation.compression
        auroc = SimpleNamespace(value=0.8 + 0.01 * study.seed + LOST[kind])
        rounds = [SimpleNamespace(bytes_up=BYTES[kind])] * study.federation.rounds
        return SimpleNamespace(rounds=rounds, test=SimpleNamespace(auroc=auroc))

    monkeypatch.setattr("melfed.simulations.run.simulate", simulate)
    monkeypatch.setattr("melfed.simulations.partition.virtual_clinics.divide", lambda *_: None)
    monkeypatch.setattr("melfed.simulations.partition.virtual_clinics.phantom_folder", lambda *_: Path())
    return runs


def test_each_kind_runs_the_same_study_at_each_seed(
    asked: list[StudyProtocol], capsys: pytest.CaptureFixture[str]
) -> None:
    compression.main(rounds=3, seeds=[0, 2], as_json=True)
    assert [(study.seed, study.federation.compression) for study in asked] == [
        (seed, kind) for seed in (0, 2) for kind in ("none", "float16", "int8")
    ]
    assert len({study.with_changes("federation", compression="none").digest for study in asked}) == 2
    assert asked[0].federation.rounds == 3
    found = json.loads(capsys.readouterr().out)["kinds"]
    assert {kind: row["ratio"] for kind, row in found.items()} == {"none": 1.0, "float16": 0.5, "int8": 0.25}
    assert found["int8"]["auroc"] == pytest.approx([0.796, 0.816])
    assert found["int8"]["auroc_change"] == pytest.approx(-0.004)
    assert found["none"]["auroc_change"] == 0


def test_as_a_table(asked: list[StudyProtocol], capsys: pytest.CaptureFixture[str]) -> None:
    compression.main(seeds=[1], as_json=False)
    assert "| float16 | 0.500 × | 0.8110 | 0.8110 | +0.0010 |" in capsys.readouterr().out
    assert len(asked) == 3
