"""One simulated run's folder, from nothing to its report; here with the central baseline, which needs no Ray."""

import json
from pathlib import Path

import pytest

from melfed.common.errors import RunError, StorageError, StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.simulations import run as run_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.run import simulate
from tests.in_process import SilentObserver


class Interrupted(Exception):
    """Stands for a kill."""


class InterruptedAfter(SilentObserver):
    """Ends a run after a round."""

    def __init__(self, round_number: int) -> None:
        self.round_number = round_number

    def round_finished(self, round_number: int, loss: float, seconds: float) -> None:
        if round_number == self.round_number:
            raise Interrupted


@pytest.fixture
def study() -> StudyProtocol:
    changes = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"batch_size": 16},
        "federation": {"mode": "central", "rounds": 3},
    }
    return StudyProtocol.model_validate_json(json.dumps(changes))


@pytest.fixture
def virtual(study: StudyProtocol, phantom: Path, tmp_path: Path) -> VirtualClinics:
    return divide(study, phantom, tmp_path / "cache")


def test_a_mean_that_needs_more_clinics_than_there_are_is_refused_before_anything_is_made(
    study: StudyProtocol, virtual: VirtualClinics, tmp_path: Path
) -> None:
    study = study.with_changes("federation", mode="federated", robust="krum", robust_byzantine=9)
    with pytest.raises(StudyError, match="krum needs 21 updates a round"):
        simulate(study, virtual, tmp_path / "run", SilentObserver())
    assert not (tmp_path / "run").exists()


def test_a_run_is_whole_and_its_summary_reads_back(
    study: StudyProtocol, virtual: VirtualClinics, tmp_path: Path
) -> None:
    summary = simulate(study, virtual, tmp_path / "run", SilentObserver())
    folder = RunFolder.open(tmp_path / "run")
    assert folder.summary() == summary
    assert summary.study.digest == study.digest == folder.study().digest
    assert folder.report.read_text().startswith("<!doctype html>")
    parts = json.loads(folder.partition.read_text())
    named = [image for clinic in parts.values() for part in clinic.values() for image in part]
    assert sorted(named) == sorted(record.image for record in virtual.records)


def test_resuming_gives_the_same_numbers(study: StudyProtocol, virtual: VirtualClinics, tmp_path: Path) -> None:
    whole = simulate(study, virtual, tmp_path / "whole", SilentObserver())
    with pytest.raises(Interrupted):
        simulate(study, virtual, tmp_path / "cut", InterruptedAfter(2))
    resumed = simulate(study, virtual, tmp_path / "cut", SilentObserver(), resume=True)
    assert resumed.test == whole.test
    assert [row.train_loss for row in resumed.rounds] == [row.train_loss for row in whole.rounds]
    assert [row.validation for row in resumed.rounds] == [row.validation for row in whole.rounds]


def test_other_data_are_refused_when_resuming(study: StudyProtocol, virtual: VirtualClinics, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        simulate(study, virtual, tmp_path / "run", InterruptedAfter(1))
    path = RunFolder.open(tmp_path / "run").partition
    path.write_text(path.read_text().replace("synthetic_000001", "another"))
    with pytest.raises(RunError, match="other clinics than when the run began"):
        simulate(study, virtual, tmp_path / "run", SilentObserver(), resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(
    study: StudyProtocol, virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        simulate(study, virtual, tmp_path / "run", InterruptedAfter(1))

    def full(*arguments: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("melfed.simulations.baselines.save_checkpoint", full)
        with pytest.raises(StorageError):
            simulate(study, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert [path.name for path in RunFolder.open(tmp_path / "run").checkpoints.iterdir()] == [
        "round-000001.safetensors"
    ]
    summary = simulate(study, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert [row.round for row in summary.rounds] == [1, 2, 3]


def test_a_folder_killed_before_its_partition_was_written_can_be_resumed(
    study: StudyProtocol, virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> str:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_partition_text", killed)
        with pytest.raises(Interrupted):
            simulate(study, virtual, tmp_path / "run", SilentObserver())
    simulate(study, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert RunFolder.open(tmp_path / "run").partition.exists()
