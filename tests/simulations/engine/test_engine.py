"""The parts of the simulation engine that need no Ray; whole simulated runs are in `tests/e2e`."""

import pytest

from melfed.common.errors import StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.engine import engine


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
    share = study('{"resources": {"gpus": 0.5}}')
    assert engine.choose("local", share, 4, alone=False) == "local", "the share was set aside by whoever runs several"
