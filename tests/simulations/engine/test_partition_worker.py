"""The workers of a simulation's process: one a clinic, with a ledger, a policy and a device of its own."""

from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.config.policy import ClinicPolicy
from melfed.client.worker.guard import Protection
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.engine import partition_worker
from melfed.simulations.partition.virtual_clinics import VirtualClinics


def test_progress_is_read_from_what_workers_leave(tmp_path: Path) -> None:
    (tmp_path / partition_worker.PROGRESS).mkdir()
    report = partition_worker.Report(tmp_path / partition_worker.PROGRESS / "host-3", "clinic of the north")
    report(10)
    assert partition_worker.read_progress(tmp_path) == {"clinic of the north": 10}
    report(11)
    assert partition_worker.read_progress(tmp_path) == {"clinic of the north": 10}, "written twice a second at most"
    partition_worker.Report(report.path, "clinic of the south")(2)
    assert partition_worker.read_progress(tmp_path) == {"clinic of the south": 2}, "of the process's present clinic"


def test_each_partition_has_one_worker_a_process(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    study = StudyProtocol.model_validate_json('{"model": {"backbone": "simple_cnn", "pretrained": false}}')
    simulation = partition_worker.Simulation(study, phantom_clinics.clinics, tmp_path / "ledgers")
    partition_worker.lay_out(simulation, tmp_path)
    worker_of = partition_worker.WorkerOfPartition(tmp_path)

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(RecordDict(), dst_node_id=9, message_type="train")

    def worker(partition: int):
        config = {"partition-id": partition}
        context = Context(run_id=1, node_id=9, node_config=config, state=RecordDict(), run_config={})
        return worker_of(context, message)

    assert worker(0) is worker(0)
    assert worker(0) is not worker(1)
    assert worker(1).data.name == phantom_clinics.clinics[1].name


def test_each_clinic_has_a_ledger_and_a_policy_of_its_own(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    own, common = (ClinicPolicy(epsilon=epsilon, studies="any") for epsilon in (1.0, 8.0))
    study, clinics = StudyProtocol(), phantom_clinics.clinics
    simulation = partition_worker.Simulation(study, clinics, tmp_path, {"north": own, "*": common})
    assert simulation.protection("north") == Protection(tmp_path / "north.jsonl", own)
    assert simulation.protection("south").policy == common
    assert partition_worker.Simulation(study, clinics, tmp_path, {"north": own}).protection("south").policy is None
    # The name of a source may be anything, and no two may share a ledger.
    names = ["a/b", "a%2Fb", "../a", "a_b", "a b", "a", "A", "ä", ".."]
    paths = {simulation.protection(name).ledger for name in names}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {tmp_path}
    assert {path.suffix for path in paths} == {".jsonl"}


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (0.5, "cuda")])
def test_a_clinic_without_a_gpu_computes_on_the_cpu(
    gpus: float, device: str, phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    study = StudyProtocol.model_validate({"model": {"backbone": "simple_cnn", "pretrained": False}})
    study = study.with_changes("resources", gpus=gpus)
    simulation = partition_worker.Simulation(study, phantom_clinics.clinics, tmp_path / "ledgers")
    partition_worker.lay_out(simulation, tmp_path)
    assert partition_worker.worker_of(tmp_path, 0).device.type == device
