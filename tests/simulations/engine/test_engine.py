"""The parts of the simulation engine that need no Ray; whole simulated runs are in `tests/e2e`."""

import os
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.config.policy import ClinicPolicy
from melfed.client.worker.guard import Protection
from melfed.common.errors import StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.engine import engine, partition_worker, ray_engine
from melfed.simulations.partition.virtual_clinics import VirtualClinics


def test_reporting_home_is_off_while_a_run_lasts_and_the_environment_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", "before")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    home = os.environ["HOME"]
    with ray_engine.environment(tmp_path):
        assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
        assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert Path(os.environ["FLWR_HOME"]).is_relative_to(tmp_path)
        assert Path(os.environ["HOME"]).is_relative_to(tmp_path)
    assert os.environ["FLWR_HOME"] == "before"
    assert os.environ["HOME"] == home
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


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


def test_no_more_ray_processes_than_clinics(tmp_path: Path) -> None:
    study = StudyProtocol.model_validate_json('{"resources": {"cpus": 0.5}}')
    settings = ray_engine._backend(study, 2, tmp_path, None)
    assert settings["init_args"]["num_cpus"] == 1
    assert settings["init_args"]["include_dashboard"] is False
    assert settings["client_resources"] == {"num_cpus": 0.5, "num_gpus": 0.0}
    cluster = ray_engine._backend(study, 2, tmp_path, "10.0.0.1:6379")["init_args"]
    assert cluster["address"] == "10.0.0.1:6379"
    assert "num_cpus" not in cluster, "Ray refuses it together with an address"


def test_a_clinic_gets_its_share_of_the_gpus_or_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 8)
    study = StudyProtocol.model_validate_json

    def shares(gpus: int, stated: str = "null", cpus: float = 1, clinics: int = 4, ray: str | None = None) -> float:
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        return engine.gpus_of(study(f'{{"resources": {{"gpus": {stated}, "cpus": {cpus}}}}}'), clinics, ray)

    assert shares(0) == 0
    assert shares(1) == 0.25
    assert shares(1, clinics=3) == 0.3333
    assert shares(1, clinics=100) == 0.125, "eight at a time"
    assert shares(1, cpus=4, clinics=100) == 0.5
    assert shares(6) == 1, "Ray hands out more than one in whole numbers"
    assert shares(8) == 2
    assert shares(4, stated="0") == 0
    assert shares(4, stated="0.5") == 0.5
    assert shares(4, ray="10.0.0.1:6379") == 0


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


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    study = StudyProtocol.model_validate_json('{"resources": {"gpus": 2}}')
    with pytest.raises(StudyError, match=r"resources\.gpus is 2, but this machine has 1"):
        engine.check_resources(study, None)
    engine.check_resources(study, "10.0.0.1:6379")


def test_ray_is_taken_for_a_cluster_or_to_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyProtocol.model_validate_json

    def chosen(asked: engine.Engine, found: int = 0, stated: str = "null", address: str | None = None) -> str:
        monkeypatch.setattr("torch.cuda.device_count", lambda: found)
        return engine.choose(asked, study(f'{{"resources": {{"gpus": {stated}}}}}'), 4, address)

    assert chosen("auto") == "local"
    assert chosen("auto", found=1) == "ray"
    assert chosen("auto", found=1, stated="0") == "local", "the study wants none"
    assert chosen("auto", stated="0.5") == "ray"
    assert chosen("auto", address="10.0.0.1:6379") == "ray"
    assert chosen("ray") == "ray"
    assert chosen("local", found=1) == "local"
    with pytest.raises(StudyError, match=r"^--engine local is one machine, and --ray-address names a cluster; leave"):
        chosen("local", address="10.0.0.1:6379")
    with pytest.raises(StudyError, match=r"^resources\.gpus is 0\.5, and --engine local has no GPU to share; take"):
        chosen("local", stated="0.5")
