"""The doctor's look at the machine, in good and bad state."""

import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.daemon import systemd_units as units
from melfed.client.doctor import machine
from melfed.client.rpc.peer_credentials import knock
from melfed.common.doctor.kit import GIB
from tests.client.doctors import edit, make_kit

TEMPLATES = Path(__file__).resolve().parents[3] / "server" / "provisioning" / "templates"
GPU = '{"devices": [{"name": "H", "free": %d, "total": 8589934592}]}'


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return make_kit(tmp_path / "kit", tmp_path / "data")


def device(config: ClinicConfig, name: str) -> ClinicConfig:
    return edit(config, "device: cpu", f"device: '{name}'")


def script(tmp_path: Path, code: str) -> tuple[str, ...]:
    (tmp_path / "report.py").write_text(code)
    return (str(tmp_path / "report.py"),)


@pytest.mark.parametrize(
    ("wanted", "code", "status", "word"),
    [
        ("cpu", "1/0", "skipped", "cpu"),
        ("auto", "print('{\"devices\": []}')", "ok", "CPU"),
        ("cuda", "print('{\"devices\": []}')", "failed", "0 GPUs"),
        ("cuda:0", f"print({GPU % (6 * GIB)!r})", "ok", "6.0 of 8.0 GiB"),
        ("auto", f"print({GPU % GIB!r})", "warning", "1.0 of 8.0 GiB"),
        ("cuda:1", f"print({GPU % GIB!r})", "failed", "no cuda:1"),
        ("auto", "raise RuntimeError('driver')", "failed", "cannot use"),
        ("cuda", "print('[]')", "failed", ""),
    ],
)
def test_gpu(config: ClinicConfig, tmp_path: Path, wanted: str, code: str, status: str, word: str) -> None:
    from melfed.common.doctor.steps import Step, examine_steps

    clinic = config if wanted == "cpu" else device(config, wanted)
    (found,) = examine_steps([Step("GPU", lambda: machine.gpu(clinic, script(tmp_path, code)))])
    assert found.status == status
    assert word in found.detail


def test_a_driver_that_hangs(config: ClinicConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GPU_SECONDS", 0.3)
    found = machine.gpu(device(config, "auto"), script(tmp_path, "import time; time.sleep(30)"))
    assert found.status == "failed"
    assert "0.3 s" in found.detail


@pytest.mark.parametrize(("gib", "status"), [(0.5, "failed"), (2.0, "warning"), (16.0, "ok")])
def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, status: str) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gib * GIB)))
    monkeypatch.setattr("melfed.common.process.memory.CGROUP", tmp_path)
    assert machine.memory().status == status


def test_threads(config: ClinicConfig) -> None:
    assert machine.threads(config).status == "ok"
    more = len(os.sched_getaffinity(0)) + 1
    found = machine.threads(edit(config, "device: cpu", f"device: cpu, threads: {more}"))
    assert found.status == "warning"
    assert str(more - 1) in found.mend


@pytest.mark.parametrize(("free", "status"), [(0, "failed"), (2.5, "warning"), (50, "ok")])
def test_disk(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free * GIB)))
    found = machine.disk(config, images=10_000)
    assert found.status == status
    assert "3.4 GiB needed" in found.detail


def test_disk_needs_less_for_what_is_decoded_already(config: ClinicConfig) -> None:
    config.cache.mkdir(parents=True)
    with (config.cache / "pixels").open("wb") as file:
        file.truncate(2 * GIB)
    assert "2.0 GiB needed" in machine.disk(config, images=10_000).detail


def test_ports(config: ClinicConfig) -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets[1:]:
        each.close()
    clinic = edit(
        config,
        "name: north",
        f"name: north\nmessenger: {{port: {numbers[0]}}}\nhealth_port: {numbers[1]}\nmetrics_port: {numbers[2]}",
    )
    assert machine.loopback_ports(clinic).status == "failed"
    assert f"messenger.port {numbers[0]}" in machine.loopback_ports(clinic).detail
    sockets[0].close()
    assert machine.loopback_ports(clinic).status == "ok"
    twice = edit(clinic, f"health_port: {numbers[1]}", f"health_port: {numbers[0]}")
    assert "named twice" in machine.loopback_ports(twice).detail


def test_the_workers_socket(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.worker_socket(config).status == "skipped"
    config.run.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(config.socket))
        listening.listen()
        # Somebody listens, and says nothing.
        monkeypatch.setattr(machine, "knock", lambda path, _: knock(path, 0.1))
        assert machine.worker_socket(config).status == "warning"
    assert machine.worker_socket(config).status == "warning", "the file is left, the worker is not"
    deep = edit(config, "name: north", f"name: north\nstate: {'s' * 120}")
    assert machine.worker_socket(deep).status == "failed"


@pytest.mark.parametrize(
    ("heard", "health", "status"),
    [("answers", True, "ok"), ("answers", None, "ok"), ("answers", False, "warning"), ("refuses", True, "warning")],
)
def test_a_worker_that_answers_root_may_still_refuse_the_messenger(
    config: ClinicConfig, heard: str, health: bool | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.run.mkdir()
    config.socket.touch()
    monkeypatch.setattr(machine, "knock", lambda *_: heard)
    monkeypatch.setattr(machine, "ask_health", lambda *_: None if health is None else {"worker": health})
    found = machine.worker_socket(config)
    assert found.status == status
    assert (health is not False) or "messenger.user" in found.mend


def test_systemd_units(config: ClinicConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_FOLDERS", (tmp_path, tmp_path / "none"))
    assert machine.systemd(config).status == "skipped"
    (tmp_path / "melfed-worker.service").touch()
    (tmp_path / "other.service").touch()
    assert machine.systemd(config).detail == "1 units installed"


@pytest.mark.parametrize("named", [None, "melfed-data"])
def test_a_messenger_that_the_units_worker_would_refuse(
    config: ClinicConfig, tmp_path: Path, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_FOLDERS", (tmp_path,))
    for name in ("worker", "messenger"):
        shutil.copy(TEMPLATES / f"melfed-{name}.service", tmp_path)
    clinic = edit(config, "name: north", f"name: north\nmessenger: {{user: {named or 'null'}}}")
    found = machine.systemd(clinic)
    assert found.status == "warning"
    assert f"messenger.user is {named or 'null'}" in found.detail
    assert "to melfed-messenger, then systemctl restart melfed-worker" in found.mend
    assert machine.systemd(edit(clinic, f"user: {named or 'null'}", "user: melfed-messenger")).status == "ok"
