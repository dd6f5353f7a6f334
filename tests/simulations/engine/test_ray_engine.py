"""What Ray's engine does before Ray starts; whole runs on Ray are in `tests/e2e`."""

import os
from pathlib import Path

import pytest

from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.engine import ray_engine


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


def test_no_more_ray_processes_than_clinics(tmp_path: Path) -> None:
    study = StudyProtocol.model_validate_json('{"resources": {"cpus": 0.5}}')
    settings = ray_engine._backend(study, 2, tmp_path, None)
    assert settings["init_args"]["num_cpus"] == 1
    assert settings["init_args"]["include_dashboard"] is False
    assert settings["client_resources"] == {"num_cpus": 0.5, "num_gpus": 0.0}
    cluster = ray_engine._backend(study, 2, tmp_path, "10.0.0.1:6379")["init_args"]
    assert cluster["address"] == "10.0.0.1:6379"
    assert "num_cpus" not in cluster, "Ray refuses it together with an address"
