"""The local engine in real processes: the numbers of one process, and nothing random in common."""

import itertools
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.privacy.plan import privacy_of
from melfed.client.training.private import PrivateTrainer
from melfed.client.worker.worker import shared_classifier
from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine import local_engine, local_worker
from melfed.simulations.engine.engine import federate
from melfed.simulations.engine.fork_server import prepare
from melfed.simulations.engine.local_engine import processes
from melfed.simulations.engine.partition_worker import Simulation, lay_out, worker_of
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests import in_process
from tests.in_process import SilentObserver

SECONDS = 120.0
PRIVACY = {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "patients": 10, "steps": 2, "sampling_rate": 0.5}


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


def draws(workspace: Path, partition: int) -> dict[str, object]:
    """The first numbers of everything random that a clinic's private training draws from."""
    worker = worker_of(workspace, partition)
    model = shared_classifier(worker.study, None, worker.device)
    trainer = PrivateTrainer(model, worker.study, privacy_of(worker.study), worker.device)
    inputs = worker._pixels(model)
    return {
        "noise": trainer.noise.gaussian((2,), 1.0).tobytes(),
        "draws": trainer.random.bytes(16),
        "views": inputs.generator.initial_seed(),  # type: ignore[attr-defined]
        "dropout": torch.seed(),
    }


def test_no_two_clinics_draw_the_same_numbers(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    study = study_of(training={"augment": True, "batch_size": 8}, privacy=PRIVACY)
    lay_out(Simulation(study, phantom_clinics.clinics, tmp_path / "ledgers"), tmp_path)
    # Each is a new copy of the prepared process; the same clinic in two of them must draw anew as well.
    found: list[dict[str, object]] = []
    for _ in range(2):
        with ProcessPoolExecutor(1, prepare(), local_worker.begin, (tmp_path,)) as process:
            clinics = range(len(phantom_clinics.clinics))
            found += [process.submit(draws, tmp_path, clinic).result(SECONDS) for clinic in clinics]
    assert found[0].keys() == {"noise", "draws", "views", "dropout"}
    for one, other in itertools.combinations(found, 2):
        assert not {kind for kind in one if one[kind] == other[kind]}


def after_training(workspace: Path, partition: int) -> int:
    """What torch's own generator was seeded with for a clinic's training without privacy."""
    worker = worker_of(workspace, partition)
    worker.train(trainable_tensors(build_study_classifier(worker.study)), 1, worker.study.digest, "run")
    return torch.initial_seed()


def test_each_clinic_trains_with_generators_of_its_own_in_whichever_process(
    phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    lay_out(Simulation(study_of(), phantom_clinics.clinics, tmp_path / "ledgers"), tmp_path)
    seeds = []
    for _ in range(2):
        with ProcessPoolExecutor(1, prepare(), local_worker.begin, (tmp_path,)) as process:
            clinics = range(len(phantom_clinics.clinics))
            seeds.append([process.submit(after_training, tmp_path, clinic).result(SECONDS) for clinic in clinics])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == len(phantom_clinics.clinics)


def question(ttl: float) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(RecordDict(), dst_node_id=1, message_type="train", group_id="1", ttl=ttl)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(pickle.dumps(RecordDict()))
    local_worker._content.cache_clear()
    return path


def test_a_request_that_came_too_late_is_not_worked_on(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = question(ttl=60.0)
    monkeypatch.setattr(local_worker.time, "time", lambda: message.metadata.created_at + 61)
    monkeypatch.setattr(local_worker, "_app", lambda _workspace: pytest.fail("was worked on"))
    assert local_worker.answer(content.parent, message, content, 0).error.reason == "the request has expired"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory (MemoryError: Unable to allocate 3 GiB); allow the"),
    ],
)
def test_what_the_clientapp_raises_is_told_in_a_line(
    error: Exception, reason: str, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_message: Message, _context: object) -> Message:
        raise error

    monkeypatch.setattr(local_worker, "_app", lambda _workspace: fail)
    told = local_worker.answer(content.parent, question(ttl=60.0), content, 0).error
    assert told.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert told.reason.startswith(reason)
    assert "\n" not in told.reason


def test_as_many_processes_as_the_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine.os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert processes(study_of(), 100) == 8
    assert processes(study_of(), 3) == 3
    assert processes(study_of(resources={"cpus": 2}), 100) == 4
    assert processes(study_of(resources={"cpus": 3}), 100) == 2
    assert processes(study_of(resources={"cpus": 0.5}), 100) == 16
    assert processes(study_of(resources={"cpus": 9}), 100) == 1
