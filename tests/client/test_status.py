"""How a clinic is, part by part."""

import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from melfed.client.cli.daemon import _of_child
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.daemon.health import HealthServer
from melfed.client.ledger.ledger import Ledger
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.client.status import UNREADABLE, status
from melfed.common.doctor.steps import Check
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.client.ledger.ledgers import DATA, STUDY, charge, cheap_epsilon, spend


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return a_clinic(tmp_path)


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

    monkeypatch.setattr("melfed.client.status.knock", knock)
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
    monkeypatch.setattr("melfed.client.status.examine_briefly", lambda *_: checks)
    word = "ready" if running else "not running"
    monkeypatch.setattr("melfed.client.status._processes", lambda *_: {"worker": word})
    done = command("status", config.path)
    assert done.code == code
    assert ("✗ it is full" in done.out) == ("free 2 GiB" in done.out) == bool(failed)
    assert json.loads(command("status", config.path, "--json").out)["ready"] == (code == 0)
