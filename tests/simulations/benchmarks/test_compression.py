"""The benchmark of compressed updates: which runs it asks for, and what it makes of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melfed.common.files import write_text
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.simulations.benchmarks import compression
from tests.common.runs import finished_run, public_model

BYTES = {"none": 1000, "float16": 500, "int8": 250}
LOST = {"none": 0.0, "float16": 0.001, "int8": -0.004}
PRIVATE = """\
name: private
model: {backbone: simple_cnn, neck: 5, train: head}
privacy: {unit: patient, epsilon: 8.0, patients: 100}
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[StudyProtocol]:
    """Studies that were run, by a simulation that gives made-up figures."""
    runs: list[StudyProtocol] = []

    def simulate(study: StudyProtocol, _virtual: object, folder: Path, _observer: object, **options: object) -> Any:
        assert options == {"resume": folder.exists(), "engine": "local"}
        runs.append(study)
        kind = study.federation.compression
        again = 0.002 if folder.name.endswith("-again") else 0.0
        auroc = SimpleNamespace(value=0.8 + 0.01 * study.seed + LOST[kind] + again)
        rounds = [SimpleNamespace(bytes_up=BYTES[kind])] * study.federation.rounds
        summary = SimpleNamespace(rounds=rounds, test=SimpleNamespace(auroc=auroc))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "study.yaml", study_yaml(study))
        write_text(folder / "summary.json", "{}")
        monkeypatch.setattr(RunFolder, "summary", lambda _: summary)
        return summary

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
    assert found["none"]["auroc_spread"] == 0


def test_the_spread_is_of_the_changes_by_seed() -> None:
    def row(kind: str, seed: int, auroc: float) -> dict[str, Any]:
        return {"kind": kind, "seed": seed, "bytes_up": 1, "auroc": auroc}

    rows = [row("none", 0, 0.8), row("int8", 0, 0.81), row("none", 1, 0.7), row("int8", 1, 0.68)]
    found = compression.summed_up(rows)["int8"]
    assert found["auroc_changes"] == pytest.approx([0.01, -0.02])
    assert found["auroc_spread"] == pytest.approx(0.03 / 2**0.5)
    assert compression.summed_up(rows[:2])["int8"]["auroc_spread"] is None


def test_a_private_study_runs_twice_without_compression(
    asked: list[StudyProtocol], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(PRIVATE)
    weights = finished_run(tmp_path / "public", public_model(neck=5))
    compression.main(study=study, data=tmp_path, weights=weights, seeds=[0], as_json=True)
    assert [study.federation.compression for study in asked] == ["none", "float16", "int8", "none"]
    found = json.loads(capsys.readouterr().out)["kinds"]
    assert found["none, again"]["auroc_change"] == pytest.approx(0.002)
    assert found["none, again"]["ratio"] == 1


def test_what_has_finished_is_not_run_again(asked: list[StudyProtocol], tmp_path: Path) -> None:
    compression.main(seeds=[0], out=tmp_path / "runs")
    assert len(asked) == 3
    compression.main(seeds=[0], out=tmp_path / "runs")
    assert len(asked) == 3
    compression.main(seeds=[0], rounds=9, out=tmp_path / "runs")
    assert len(asked) == 6


def test_as_a_table(asked: list[StudyProtocol], capsys: pytest.CaptureFixture[str]) -> None:
    compression.main(seeds=[1], as_json=False)
    assert "| float16 | 0.500 × | 0.8110 | 0.8110 | +0.0010 |  |" in capsys.readouterr().out
    assert len(asked) == 3


def test_the_studies_of_the_benchmark_stand(tmp_path: Path) -> None:
    from melfed.common.study.file import read_study

    for text in (compression.SYNTHETIC, compression.REAL):
        (tmp_path / "study.yaml").write_text(text)
        assert read_study(tmp_path / "study.yaml").privacy is None
