"""The local engine in real processes: the numbers of one process, and as many as there is room for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine import local_engine
from melfed.simulations.engine.engine import federate
from melfed.simulations.engine.local_engine import processes
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests import in_process
from tests.in_process import SilentObserver


def study_of(**changes: Any) -> StudyProtocol:
    sections = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"batch_size": 8, "warmup_steps": 0},
        "federation": {"rounds": 2},
    }
    return StudyProtocol.model_validate(sections | changes)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_numbers_are_those_of_one_process_bit_by_bit(
    phantom_clinics: VirtualClinics, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine.os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    study = study_of()
    initial = trainable_tensors(build_study_classifier(study))
    outcomes = []
    for name, run in (("here", in_process.federate), ("there", federate)):
        folder = RunFolder.create(tmp_path / name, study)
        simulation = Simulation(study, phantom_clinics.clinics, folder.ledgers)
        outcomes.append(run(simulation, folder, initial, SilentObserver(), "local"))
    here, there = (outcome.models[""] for outcome in outcomes)
    assert here.keys() == there.keys()
    assert all(here[name].tobytes() == there[name].tobytes() for name in here)
    assert any(here[name].tobytes() != initial[name].tobytes() for name in here), "something was learnt"
    one, other = (scored(outcome) for outcome in outcomes)
    assert one == other


def scored(outcome: Outcome) -> dict[str, dict[str, bytes]]:
    """The histograms of all clinics' test parts, as bytes."""
    return {
        clinic: {name: array.tobytes() for name, array in histogram.to_arrays().items()}
        for clinic, histogram in outcome.test.items()
    }


def test_as_many_processes_as_the_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine.os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert processes(study_of(), 100) == 8
    assert processes(study_of(), 3) == 3
    assert processes(study_of(resources={"cpus": 2}), 100) == 4
    assert processes(study_of(resources={"cpus": 3}), 100) == 2
    assert processes(study_of(resources={"cpus": 0.5}), 100) == 16
    assert processes(study_of(resources={"cpus": 9}), 100) == 1


def test_a_run_beside_others_has_one_process(
    phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def pool(_create: object, size: int, _told: object) -> None:
        raise Enough(size)

    monkeypatch.setattr(local_engine.os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(local_engine, "prepare", lambda: None)
    monkeypatch.setattr(local_engine, "ProcessPool", pool)
    study, sizes = study_of(), []
    initial = trainable_tensors(build_study_classifier(study))
    for alone in (True, False):
        folder = RunFolder.create(tmp_path / str(alone), study)
        simulation = Simulation(study, phantom_clinics.clinics, folder.ledgers, alone=alone)
        with pytest.raises(Enough) as error:
            local_engine.simulate(simulation, tmp_path, folder, initial, SilentObserver())
        sizes.append(error.value.args[0])
    assert sizes == [len(phantom_clinics.clinics), 1]
