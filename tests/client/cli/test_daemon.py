"""`melfed-client start`, `status`, `doctor` and the processes: what each calls, and how it leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from melfed.client.cli.daemon import _of_child
from melfed.client.cli.status import UNREADABLE, status
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.daemon.health import HealthServer
from melfed.client.ledger.ledger import Ledger
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.doctor.steps import Check
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.client.ledger.ledgers import DATA, STUDY, charge, cheap_epsilon, spend

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return a_clinic(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_start_says_in_one_line_that_there_is_no_clinic(command: Command, tmp_path: Path) -> None:
    for arguments in (("start", tmp_path / "none.yaml"), ("worker", "--config", tmp_path / "none.yaml")):
        done = command(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (11, "", 1)


def test_the_configuration_is_named_once(command: Command, config: ClinicConfig) -> None:
    assert command("status", config.path, "--config", config.path).code == 2
    assert command("ledger", "show", config.ledger, "--config", config.path).code == 2


@pytest.mark.parametrize("role", ["worker", "supernode", "messenger"])
def test_each_process_is_one_call(
    command: Command, config: ClinicConfig, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ClinicConfig] = []
    module = types.ModuleType("fake")
    module.main = asked.append  # type: ignore[attr-defined]
    module.serve = lambda here, stop: asked.append(here)  # type: ignore[attr-defined]
    of_role = {"worker": "worker.process", "supernode": "flower.supernode", "messenger": "flower.superexec"}
    monkeypatch.setitem(sys.modules, f"melfed.client.{of_role[role]}", module)
    with_port = a_clinic(config.folder, health_port=9095)
    monkeypatch.setattr("melfed.client.cli.daemon._begin", lambda: None)
    monkeypatch.setattr("melfed.client.cli.daemon._until_told", threading.Event)
    assert command(role, "--config", with_port.path).code == 0
    assert [here.path for here in asked] == [config.path]
    # The health port is the daemon's.
    assert asked[0].file.health_port == (None if role == "worker" else 9095)


def test_status_of_a_clinic_that_does_not_run(command: Command, config: ClinicConfig) -> None:
    done = command("status", config.path, "--json")
    assert done.code == 14
    content = json.loads(done.out)
    assert (content["clinic"], content["running"], content["approved"]) == ("north", False, [])
    assert content["processes"] == {"worker": "not running", "supernode": "not running", "messenger": "not running"}
    assert not content["ready"]
    assert {"outbound port", "data folder"} <= {row["name"] for row in content["checks"] if row["status"] == "failed"}
    assert content["budget"] == {"epsilon": 3.0, "delta": 1e-5, "spent": 0.0, "left": 3.0}
    words = command("status", config.path).out
    assert "ε 0 of 3 spent, 3 left, at δ 1e-05" in words
    assert "no study" in words


def test_status_tells_what_is_spent_and_of_the_last_round(
    config: ClinicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)
    prepare_worker(config)
    with Ledger.open(config.ledger, DATA) as ledger:
        spend(ledger, charge(4, Mechanism(1.0, 2.0, 1)))
    found = status(config)
    assert found.budget is not None
    assert found.last is not None
    assert 0 < found.budget.spent < 3
    assert found.budget.left == 3 - found.budget.spent
    assert (found.last.study, found.last.round, found.last.status) == (STUDY, 4, "released")
    with Ledger.open(config.ledger, DATA) as ledger:
        spend(ledger, charge(5, Mechanism(1.0, 0.0, 1)))
    monkeypatch.setattr(accounting, "epsilon", lambda *_: float("inf"))
    budget = json.loads(json.dumps(status(config).as_json(), allow_nan=False))["budget"]
    assert (budget["spent"], budget["left"]) == (None, 0.0)


def test_status_says_how_long_a_process_has_been_there() -> None:
    since = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    child = {"name": "worker", "status": "ready", "pid": 7, "restarts": 1, "reason": "ended with 1", "since": since}
    assert _of_child(child) == "pid 7, for 5 min, restarted once, last: ended with 1"
    assert "restarted 2 times" in _of_child(child | {"restarts": 2})


def test_status_goes_on_where_one_part_is_damaged(config: ClinicConfig) -> None:
    prepare_worker(config)
    config.ledger.write_text("nonsense\n")
    (config.approvals / f"{'a' * 64}.json").write_text("{}")
    found = status(config)
    assert (found.budget, found.approved) == (None, None)
    assert [problem.partition(":")[0] for problem in found.problems] == ["approved studies", "ledger"]


@pytest.mark.parametrize(
    ("door", "health", "word"),
    [
        (PermissionError, True, "ready"),  # a user of the monitoring, say
        ("refuses", True, "ready"),
        (PermissionError, None, UNREADABLE),
        ("refuses", None, "refuses this user"),
        ("answers", False, "not ready"),  # root is let in, the messenger is not
        ("answers", None, "ready"),
        ("silent", True, "not running"),
    ],
)
def test_status_of_a_worker_by_its_door_and_by_what_the_daemon_says(
    config: ClinicConfig, door: object, health: bool | None, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knock(*_: object) -> object:
        if door is PermissionError:
            raise PermissionError
        return door

    monkeypatch.setattr("melfed.client.cli.status.knock", knock)
    with HealthServer(0) as server:
        if health is not None:
            server.tell({"worker": health, "supernode": True, "messenger": True})
        found = status(a_clinic(config.folder, health_port=server.port))
    assert found.processes["worker"] == word
    assert found.running == (word == "ready" and health is not None)


def test_status_reaches_the_coordinator_through_the_proxy(
    config: ClinicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = a_clinic(config.folder, coordinator={"host": "coordinator.invalid", "port": 443})
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            for words in (b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n"):
                guest, _ = proxy.accept()
                with guest:
                    asked.append(guest.recv(1000))
                    guest.sendall(words)

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("https_proxy", raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        outcomes = [{check.name: check.status for check in status(far).checks}["outbound port"] for _ in range(2)]
    assert outcomes == ["ok", "failed"]
    assert asked[0].startswith(b"CONNECT coordinator.invalid:443 ")


@pytest.mark.parametrize(("running", "failed", "code"), [(True, 0, 0), (True, 1, 1), (False, 0, 14), (False, 1, 14)])
def test_status_leaves_as_it_stands(
    running: bool, failed: int, code: int, config: ClinicConfig, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check("disk", "failed", "it is full", "free 2 GiB")] * failed + [Check("door", "ok", "open")]
    monkeypatch.setattr("melfed.client.cli.status.examine_briefly", lambda *_: checks)
    word = "ready" if running else "not running"
    monkeypatch.setattr("melfed.client.cli.status._processes", lambda *_: {"worker": word})
    done = command("status", config.path)
    assert done.code == code
    assert ("✗ it is full" in done.out) == ("free 2 GiB" in done.out) == bool(failed)
    assert json.loads(command("status", config.path, "--json").out)["ready"] == (code == 0)


@pytest.mark.parametrize("failed", [False, True])
def test_doctor_prints_what_it_finds_and_leaves_with_1_for_a_cross(
    command: Command, config: ClinicConfig, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check("disk", "failed" if failed else "warning", "10 MB are left", "free space")]
    seen: list[ClinicConfig] = []

    def examine(here: ClinicConfig, on_check: object = None) -> list[Check]:
        seen.append(here)
        return checks

    monkeypatch.setattr("melfed.client.doctor.examination.examine", examine)
    done = command("doctor", config.path)
    assert done.code == int(failed)
    assert "free space" in done.out
    done = command("doctor", "--json", "--config", config.path)
    assert done.code == int(failed)
    assert json.loads(done.out)[0]["mend"] == "free space"
    # A clinic.yaml that is not complete is something to examine.
    config.path.write_text("policy: {epsilon: 3}")
    assert command("doctor", config.path).code == int(failed)
    assert seen[-1].file.data is None


def test_carry_leaves_within_seconds_of_sigterm(tmp_path: Path) -> None:
    """The real command; its children cannot start for want of keys, so it waits to start them again."""
    with socket.create_server(("127.0.0.1", 0)) as line:
        port = line.getsockname()[1]
    config = a_clinic(tmp_path, messenger={"port": port})
    arguments = [sys.executable, "-P", "-m", "melfed.client.cli.main", "carry", "--config", str(config.path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "supernode started" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "Traceback" not in said
