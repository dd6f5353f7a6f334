"""`melfed-client log`: both logs in the order of time, since when, and whether they are whole."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_messenger, prepare_worker
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, verify_log
from tests.client.clinics import a_clinic
from tests.client.commands import Command


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClinicConfig:
    monkeypatch.setenv("MELFED_CLINIC", str(tmp_path / "clinic.yaml"))
    return a_clinic(tmp_path)


@pytest.fixture
def written(config: ClinicConfig) -> ClinicConfig:
    """Two logs with three records, the messenger's between two of the worker's."""
    prepare_worker(config)
    prepare_messenger(config)
    worker, messenger = AuditLog(config.audit_log, "worker"), AuditLog(config.messenger_audit_log, "supernode")
    for log, event, fields in (
        (worker, Event.WORKER_STARTED, {"version": "1"}),
        (messenger, Event.CONNECTION_LOST, {"reason": "no route"}),
        (worker, Event.WORKER_STOPPED, {"reason": "asked to stop"}),
    ):
        log.record(event, **fields)
        time.sleep(0.002)  # the two logs are merged by times in milliseconds, which must differ
    return config


def test_records_come_in_the_order_of_time(command: Command, written: ClinicConfig) -> None:
    done = command("log")
    lines = [line.split(" ", 1) for line in done.out.splitlines()]
    assert [rest for _, rest in lines] == [
        "worker 1001 worker-started worker version=1",
        "messenger 1016 connection-lost supernode reason=no route",
        "worker 1002 worker-stopped worker reason=asked to stop",
    ]
    rows = [json.loads(line) for line in command("log", "--json").out.splitlines()]
    assert [row["id"] for row in rows] == [1001, 1016, 1002]
    assert all(len(row["hash"]) == 64 for row in rows)


def test_the_last_records_are_those_of_all_logs(command: Command, written: ClinicConfig) -> None:
    for options, ids in (
        (("--last", 2), [1016, 1002]),
        (("-n", 1, "--since", "1h"), [1002]),
        (("--last", 9), [1001, 1016, 1002]),
    ):
        assert [json.loads(line)["id"] for line in command("log", *options, "--json").out.splitlines()] == ids
    assert command("log", "--last", 0).code == 2
    assert command("log", "--last", 2, "verify").code == 2


ESCAPES = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202efake\nline"


def by_hand(**fields: object) -> bytes:
    """A line of a log as whoever may write to the file can make it, with a hash that fits."""
    body = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    return body + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def test_what_the_messengers_user_wrote_harms_no_terminal_and_hides_nothing(
    command: Command, written: ClinicConfig
) -> None:
    now = json.loads(written.audit_log.read_text().splitlines()[0])["time"]
    rows = [
        {"time": now, "id": 1005, "event": "request-answered", "who": "worker", "kind": ESCAPES, ESCAPES: "x"},
        {"time": now, "id": "x", "event": "request-answered", "who": ESCAPES, "log": "worker"},
        {"time": 7, "id": 1005},
        {"id": 1005.5, "time": now},
    ]
    with written.messenger_audit_log.open("ab") as file:
        file.writelines(by_hand(**row) for row in rows)
    done = command("log")
    assert done.code == 0
    assert all(line.isprintable() for line in done.out.splitlines())
    lines = done.out.splitlines()
    assert len(lines) == 3 + len(rows)
    assert sum(line.startswith("NOT WRITTEN BY MELFED: ") for line in lines) == 3
    assert [line.split()[1:] for line in lines if " 1002 " in line] == [
        ["worker", "1002", "worker-stopped", "worker", "reason=asked", "to", "stop"]
    ]
    (fake,) = [line for line in lines if "1005 request-answered worker" in line]
    assert fake.split()[1] == "messenger"
    as_json = command("log", "--json").out
    assert as_json.replace("\n", "").isprintable()
    assert [json.loads(line)["log"] for line in as_json.splitlines()].count("worker") == 2
    assert len(command("log", "--since", "2999-01-01").out.splitlines()) == 3, "what is no record has no time"


def test_since_leaves_out_what_was_before(command: Command, written: ClinicConfig) -> None:
    rows = [json.loads(line) for line in command("log", "--json").out.splitlines()]
    assert len(command("log", "--since", "1h").out.splitlines()) == 3
    assert len(command("log", "--since", rows[1]["time"]).out.splitlines()) == 2
    assert command("log", "--since", "2999-01-01").out == ""
    for wrong in ("yesterday", "5", "5w", "999999d"):
        done = command("log", "--since", wrong)
        assert (done.code, "write 30m" in done.err.replace("\n", " ")) == (2, wrong != ""), wrong


def test_whole_logs_are_said_to_be_whole_with_their_heads(command: Command, written: ClinicConfig) -> None:
    head = verify_log(written.audit_log).head
    done = command("log", "verify")
    assert done.code == 0
    assert f"{written.audit_log}: 2 records, chain whole, head {head}\n" in done.out
    assert f"{written.messenger_audit_log}: 1 record, chain whole" in done.out
    assert command("log", "verify", "--head", head).code == 0
    lost = command("log", "verify", "--head", "a" * 64)
    assert (lost.code, "lines were cut off" in lost.err) == (10, True)


@pytest.mark.parametrize("name", ["audit_log", "messenger_audit_log"])
def test_a_log_that_was_edited_is_found(command: Command, written: ClinicConfig, name: str) -> None:
    path = getattr(written, name)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"no route", b"rain").replace(b'"version":"1"', b'"version":"2"'))
    done = command("log", "verify")
    assert (done.code, done.err.count("\n")) == (10, 1)
    assert f"{path}: line 1: is not what was written" in done.err


def test_without_a_log_it_says_so(command: Command, config: ClinicConfig) -> None:
    for arguments in (("log",), ("log", "verify")):
        done = command(*arguments)
        assert (done.code, "there is no audit log yet" in done.err) == (8, True)
