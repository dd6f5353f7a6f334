"""The commands of `melfed-server` about clinics and runs, without a server that runs."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.audit_log import AuditLog
from common.errors import (
    CancelledError,
    MelfedError,
    QuorumError,
    RunError,
    ServerConfigError,
    ServiceError,
    StudyError,
)
from common.events import Event
from common.protocol import StudyProtocol
from common.study_file import read_study
from server.cli import app
from server.config import ServerConfig
from server.daemon_state import DaemonState, write_daemon_state
from server.run_lock import held
from server.run_request import queue_run, read_request
from server.run_state import RunState, change_state, read_state
from server.said import Said, note_said
from server.watch import Tail, follow, raise_unless_completed, words_of
from tests.server.coordinator import make_kits

STUDY = "name: s\nmodel: {backbone: simple_cnn, pretrained: false}\nfederation: {rounds: 2}\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    before = dict(os.environ)
    found = make_kits(tmp_path / "kits", "ab")
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELFED_SERVER", str(found.path))
    yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def running(config: ServerConfig) -> Iterator[ServerConfig]:
    """As if a daemon ran."""
    write_daemon_state(config.daemon_state, DaemonState(pid=os.getpid(), started="now"))
    with held(config.daemon_lock, "the server is run"):
        yield config


def call(*words: str) -> str:
    """Run a command in this process; raises what it raises."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_study_is_sealed_for_the_clinics(config):
    digest = call("study", "s.yaml", "--out", "sealed.yaml").strip().splitlines()[-1]
    sealed = read_study(Path("sealed.yaml"))
    assert sealed.digest == digest
    assert sealed.model.weights is None


@pytest.mark.parametrize(
    ("override", "word"), [("federation.mode=central", "melfed-sim"), ("data.phantom={}", "data.phantom")]
)
def test_what_is_for_simulation_is_refused(config, override, word):
    with pytest.raises(StudyError, match=word):
        call("study", "s.yaml", "--set", override)


def test_a_run_wants_a_server(config):
    with pytest.raises(ServiceError, match="the server is not running"):
        call("run", "s.yaml", "--out", "r")
    assert not (config.runs / "r").exists()


def test_a_run_is_queued_for_the_chosen_clinics(running):
    assert call("run", "s.yaml", "--out", "r", "--clinics", "b", "--detach").splitlines()[-1] == "r"
    assert read_request(running.runs / "r").clinics == ("b",)
    assert read_state(running.runs / "r").wanted
    call("run", "s.yaml", "--out", "all", "--detach")
    assert read_request(running.runs / "all").clinics == ("a", "b")


def test_only_approved_clinics_can_be_chosen(running):
    call("revoke", "b")
    for names in ("a,b", "x", ","):
        with pytest.raises(ServerConfigError, match="--clinics"):
            call("run", "s.yaml", "--clinics", names, "--detach")
    call("revoke", "a")
    with pytest.raises(ServerConfigError, match="no clinic is approved"):
        call("run", "s.yaml", "--detach")


def test_a_clinic_that_has_not_approved_is_named(running):
    note_said(running.clinics_said, "a", Said(approved=("f" * 64,)))
    note_said(running.clinics_said, "b", Said(approved=("any",)))
    told = call("run", "s.yaml", "--out", "r", "--detach")
    assert "clinic a had not approved" in told
    assert "clinic b" not in told


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
def test_a_name_stays_below_the_runs(running, name):
    if name:
        with pytest.raises(RunError, match="--out"):
            call("run", "s.yaml", "--out", name, "--detach")
    else:
        assert call("run", "s.yaml", "--out", name, "--detach").splitlines()[-1].startswith("s-")


def test_stop_and_resume(running):
    call("run", "s.yaml", "--out", "r", "--detach")
    path = running.runs / "r"
    call("stop", "r")
    assert not read_state(path).wanted
    change_state(path, status="stopped", reason="x")
    call("run", "--resume", "r", "--detach")
    state = read_state(path)
    assert (state.wanted, state.status, state.reason) == (True, "queued", "")
    with pytest.raises(RunError, match="resume with the same study"):
        call("run", "s.yaml", "--resume", "r", "--set", "seed=9", "--detach")
    change_state(path, status="completed", wanted=False)
    for words in (("run", "--resume", "r"), ("stop", "r")):
        with pytest.raises(RunError, match="finished already"):
            call(*words)


def test_resuming_what_runs_leaves_it_alone(running):
    call("run", "s.yaml", "--out", "r", "--detach")
    change_state(running.runs / "r", status="running", flower_run=4)
    before = read_state(running.runs / "r")
    call("run", "--resume", "r", "--detach")
    assert read_state(running.runs / "r") == before


def test_clinics_are_listed_kept_out_and_let_in(config):
    call("revoke", "a")
    rows = {row["name"]: row["revoked"] for row in json.loads(call("clinics", "--json"))}
    assert rows == {"a": True, "b": False}
    call("approve", str(config.clinics / "a.json"))
    assert "no, revoked" not in call("clinics")


def test_status_without_a_server_shows_the_runs(config):
    queue_run(config.runs / "r", StudyProtocol(name="s"), ("a",), [])
    (config.runs / "broken").mkdir()
    (config.runs / "broken" / "state.json").write_text("{")
    done = CliRunner().invoke(app, ["status", "--json"])
    assert done.exit_code == ServiceError.exit_code
    found = json.loads(done.stdout)
    assert not found["running"]
    assert {run["name"]: run["status"] for run in found["runs"]} == {"r": "queued", "broken": "damaged"}


def test_status_joins_what_clinics_said(running):
    clinics = [{"name": "a", "online": True, "node": 1}, {"name": "b"}]
    state = DaemonState.model_validate({"pid": 1, "started": "now", "clinics": tuple(clinics)})
    write_daemon_state(running.daemon_state, state)
    note_said(running.clinics_said, "a", Said(version="1.2", approved=("f" * 64,), budget=2.5))
    rows = {row["name"]: row for row in json.loads(call("status", "--json"))["clinics"]}
    assert (rows["a"]["version"], rows["a"]["budget"], rows["a"]["online"]) == ("1.2", 2.5, True)
    assert rows["b"]["approved"] is None
    assert "2.5" in call("status")


def test_the_log_is_shown_and_verified(config):
    AuditLog(config.audit_log).record(Event.RUN_STOPPED, run="x", by="me")
    assert "2013 run-stopped run=x by=me" in call("log")
    assert "1 records, chain whole" in call("log", "verify")
    config.audit_log.write_text(config.audit_log.read_text().replace('"me"', '"you"'))
    with pytest.raises(MelfedError, match="keep the file as it is"):
        call("log", "verify")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (RunState(status="failed", reason="quorum: 1 of 3 clinics answered"), QuorumError),
        (RunState(status="failed", reason="overflow"), RunError),
        (RunState(status="stopped"), CancelledError),
    ],
)
def test_how_a_run_ended_is_the_exit_code(state, error):
    with pytest.raises(error):
        raise_unless_completed("r", state)
    raise_unless_completed("r", RunState(status="completed"))


def test_a_run_is_followed_to_its_end(config):
    folder = queue_run(config.runs / "r", StudyProtocol(name="s"), ("a",), [])
    log = AuditLog(config.audit_log)
    log.record(Event.CLINIC_LOST, run=folder.identity, clinic="before")
    tail = Tail(config.audit_log, folder.identity)
    told, seen = [], []

    def go() -> None:
        time.sleep(0.1)
        log.record(Event.CLINIC_LOST, run="another", clinic="b")
        log.record(Event.CLINIC_LOST, run=folder.identity, clinic="a", reason="offline")
        log.record(Event.ROUND_FINISHED, run=folder.identity, round=1, answered=["b"], failed=["a"], seconds=2.0)
        change_state(folder.path, status="completed", wanted=False, round=1)

    thread = threading.Thread(target=go)
    thread.start()
    state = follow(folder, tail, told.append, seen.append, pause=0.01)
    thread.join()
    assert state.status == "completed"
    assert [words_of(row)[0] for row in told] == [
        "clinic a is lost: offline",
        "round 1: 2.0 s, answered: b; failed: a",
    ]
    assert seen[0].status == "queued"


def test_half_a_line_waits(tmp_path):
    log = tmp_path / "audit.jsonl"
    tail = Tail(log, "r")
    assert list(tail.rows()) == []
    log.write_text('{"run": "r", "id": 1}\n{"run": "r", ')
    assert [row["id"] for row in tail.rows()] == [1]
    log.write_text('{"run": "r", "id": 1}\n{"run": "r", "id": 2}\n')
    assert [row["id"] for row in tail.rows()] == [2]
