"""Metrics of the coordinator: clinics, children and what runs add up to."""

import json
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from melfed.common.errors import ServiceError
from melfed.common.study.protocol import StudyProtocol
from melfed.server.daemon.prometheus import ServerMetrics, Standing, served
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import RunState, write_state
from tests.server.coordinator import free_ports

STANDING = Standing(
    clinics={"a": True, "b": False}, restarts={"nginx": 2}, ready={"nginx": True}, certificate_days={"server": 12.5}
)


def a_run(path: Path, rounds: int) -> RunFolder:
    folder = RunFolder.create(path, StudyProtocol(name="s"))
    write_state(folder.path, RunState(status="running"))
    for number in range(1, rounds + 1):
        finished(folder, number)
    return folder


def finished(folder: RunFolder, number: int) -> None:
    row = {"event": "round", "round": number, "bytes_up": 10, "bytes_down": 100, "seconds": 1.5}
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "declined": {"b": "no"}, "failed": {"c": "x", "d": "y"}}) + "\n")


def values(metrics: ServerMetrics) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return {
        (sample.name, next(iter(sample.labels.values()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_clinics_children_and_certificates_are_told(tmp_path: Path) -> None:
    found = values(ServerMetrics(tmp_path / "none", lambda: STANDING))
    assert found["melfed_clinic_online", "a"] == 1
    assert found["melfed_clinic_online", "b"] == 0
    assert found["melfed_child_ready", "nginx"] == 1
    assert found["melfed_child_restarts_total", "nginx"] == 2
    assert found["melfed_certificate_days", "server"] == 12.5
    assert found["melfed_runs", "running"] == 0


def test_rounds_of_runs_are_added_up_and_read_again_when_they_have_changed(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 2)
    (tmp_path / "no run").mkdir()
    metrics = ServerMetrics(tmp_path, lambda: STANDING)
    for rounds in (2, 3):
        found = values(metrics)
        assert found["melfed_runs", "running"] == 1
        assert found["melfed_rounds_total", "one"] == rounds
        assert (found["melfed_bytes_up_total", "one"], found["melfed_bytes_down_total", "one"]) == (
            10 * rounds,
            100 * rounds,
        )
        assert (found["melfed_declines_total", "one"], found["melfed_lost_total", "one"]) == (rounds, 2 * rounds)
        assert found["melfed_round_seconds_total", "one"] == 1.5 * rounds
        finished(folder, rounds + 1)


def test_a_damaged_run_is_left_out(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one", 1)
    (folder.path / "state.json").write_text("{")
    assert ("melfed_rounds_total", "one") not in values(ServerMetrics(tmp_path, lambda: STANDING))


def test_it_answers_on_loopback_and_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    metrics, (port,) = ServerMetrics(tmp_path, lambda: STANDING), free_ports(1)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with served(metrics, port):
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b'melfed_clinic_online{clinic="a"} 1.0' in answer.read()
        taken = rf"^127.0.0.1:{port}: .*; choose another metrics_port in server.yaml$"
        with pytest.raises(ServiceError, match=taken), served(metrics, port):
            pass
    with served(metrics, None):
        pass
