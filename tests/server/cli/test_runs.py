"""The commands of `melfed-server` about clinics and runs, without a server that runs."""

import errno
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import (
    CancelledError,
    MelfedError,
    QuorumError,
    RunError,
    ServerConfigError,
    ServiceError,
    StorageError,
    StudyError,
)
from melfed.common.locks import only_one
from melfed.common.study.file import read_study
from melfed.common.study.protocol import StudyProtocol
from melfed.common.terminal.console import run_app
from melfed.server.cli import options as terminal
from melfed.server.cli import status
from melfed.server.cli.follow import Tail, follow, raise_unless_completed, words_of
from melfed.server.cli.main import app
from melfed.server.cli.runs import ASK_SECONDS
from melfed.server.clinics.certificates import read_certificate
from melfed.server.clinics.self_reports import Said, note_said
from melfed.server.config import ServerConfig
from melfed.server.daemon.state import DaemonState, write_daemon_state
from melfed.server.runs.request import queue_run, read_request
from melfed.server.runs.state import RunState, change_state, read_state
from tests.server.coordinator import make_kits

STUDY = "name: s\nmodel: {backbone: simple_cnn, pretrained: false}\nfederation: {rounds: 2}\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    before, mask = dict(os.environ), os.umask(0o022)  # `start` sets it
    found = make_kits(tmp_path / "kits", "ab")
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELFED_SERVER", str(found.path))
    yield found
    os.umask(mask)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def running(config: ServerConfig) -> Iterator[ServerConfig]:
    """As if a daemon ran."""
    write_daemon_state(config.daemon_state, DaemonState(pid=os.getpid(), started="now"))
    with only_one(config.daemon_lock, "the server is run"):
        yield config


def call(*words: str) -> str:
    """Run a command in this process; raises what it raises."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_study_is_sealed_for_the_clinics(config):
    told = call("study", "s.yaml", "--out", "sealed.yaml")
    assert Path("sealed.yaml").stat().st_mode & 0o777 == 0o644, "for whoever sends it"
    digest = told.strip().splitlines()[-1]
    assert "note: " not in told
    assert "note: nothing written; --out FILE makes what clinics approve" in call("study", "s.yaml")
    sealed = read_study(Path("sealed.yaml"))
    assert sealed.digest == digest
    assert sealed.model.weights is None


def test_it_is_said_how_many_melanomas_the_noise_of_the_evaluation_hides(config):
    private = "privacy={unit: patient, epsilon: 3, sampling_rate: 1, steps: 1}"
    needed = r"about (\d+) patients with a melanoma for an AUROC at this ε \(σ (\S+)\)"
    two = re.search(f"note: with 2 clinics the test parts need {needed}", call("study", "s.yaml", "--set", private))
    call("revoke", "a")
    one = re.search(f"note: the test part needs {needed}", call("study", "s.yaml", "--set", private))
    assert float(one[2]) == float(two[2])
    # √2 times as many, each rounded up.
    assert (int(one[1]) - 1) * 2**0.5 <= int(two[1]) <= int(one[1]) * 2**0.5 + 1
    public = call("study", "s.yaml", "--set", private, "--set", "privacy.evaluation=public")
    call("revoke", "b")
    assert "melanoma" not in public + call("study", "s.yaml", "--set", private)


BOUND = "federation.largest_clinic=5000", "federation.clip_update_norm=3"


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        ((), "federation.largest_clinic and federation.clip_update_norm"),
        (BOUND[:1], "federation.clip_update_norm"),
        (BOUND[1:], "federation.largest_clinic"),
        (BOUND, None),
        ((BOUND[0], "federation.largest_update_norm=3"), None),
        (("federation.robust=median",), None),
    ],
)
def test_whoever_trusts_every_clinic_is_told_so(running, overrides, missing):
    words = [word for override in overrides for word in ("--set", override)]
    for command in (("study", "s.yaml"), ("run", "s.yaml", "--detach", "--out", "r")):
        if "robust" in str(overrides) and command[0] == "run":
            continue  # it needs three clinics
        told = [line for line in call(*command, *words).splitlines() if line.startswith("warning: a clinic that lies")]
        assert [line.split("; state ")[1] for line in told] == ([f"{missing}, or robust"] if missing else [])


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
    alone = "warning: one clinic alone"
    assert alone in call("run", "s.yaml", "--out", "one", "--clinics", "a", "--detach")
    assert alone not in call("run", "s.yaml", "--out", "all", "--detach")
    assert read_request(running.runs / "all").clinics == ("a", "b")


def test_a_study_whose_mean_needs_more_clinics_is_refused_before_there_is_a_run(running):
    for override in ("federation.robust=median", "federation.robust=krum"):
        with pytest.raises(StudyError, match=r"needs \d updates a round, and of 2 clinics a round asks 2; take"):
            call("run", "s.yaml", "--out", "r", "--set", override, "--detach")
    assert not (running.runs / "r").exists()


def asked(config: ServerConfig, answers: dict[str, Said]):
    """In the place of asking the clinics: what they answer now."""

    def ask(asked_config, seconds):
        assert (asked_config.path, seconds) == (config.path, ASK_SECONDS)
        for name, said in answers.items():
            note_said(config.clinics_said, name, said)

    return ask


def test_a_clinic_that_declined_this_study_is_named_with_its_reason(running, monkeypatch):
    digest = call("study", "s.yaml").strip().splitlines()[-1]
    note_said(running.clinics_said, "a", Said(approved=(digest,)))
    note_said(running.clinics_said, "a", Said(reason="nothing is left", declined=digest))
    note_said(running.clinics_said, "b", Said(reason="not approved", declined="f" * 64))
    monkeypatch.setattr(status, "ask_clinics", asked(running, {"a": Said(reason="nothing is left", declined=digest)}))
    told = call("run", "s.yaml", "--out", "r", "--detach")
    assert "clinic a declines this study: nothing is left" in told
    assert "clinic b" not in told, "it does not say what it has approved"


def test_what_a_clinic_said_before_it_declined_stays(running):
    clinics = [{"name": "a", "online": True, "since": datetime.now(UTC).isoformat()}, {"name": "b"}]
    write_daemon_state(
        running.daemon_state, DaemonState.model_validate({"pid": 1, "started": "now", "clinics": tuple(clinics)})
    )
    note_said(running.clinics_said, "a", Said(version="1.2", approved=("f" * 64,), budget=2.5))
    note_said(running.clinics_said, "a", Said(version="1.3", reason="spent"))
    note_said(running.clinics_said, "b", Said(approved=()))
    rows = {row["name"]: row for row in json.loads(call("status", "--json"))["clinics"]}
    assert (rows["a"]["version"], rows["a"]["approved"], rows["a"]["budget"]) == ("1.3", ["f" * 64], 2.5)
    assert rows["b"]["approved"] == []
    table = call("status")
    assert ("none" in table, "last seen" in table, "0 s ago" in table) == (True, False, True)
    note_said(running.clinics_said, "a", Said(version="1.3"))
    assert json.loads(call("status", "--json"))["clinics"][0]["approved"] is None


def test_status_cuts_a_long_reason_and_names_the_runs_identity(running):
    folder = queue_run(running.runs / "r", StudyProtocol(name="s"), ("a",), [])
    change_state(folder.path, status="failed", wanted=False, reason="word " * 50)
    (run,) = json.loads(call("status", "--json"))["runs"]
    assert (run["identity"], len(run["reason"])) == (folder.identity, 250)
    shown = " ".join(call("status").split())
    assert "…; melfed-server log" in shown
    assert shown.count("word") == 20


def test_the_log_is_shown_from_a_time_on(config):
    log = AuditLog(config.audit_log)
    for number in range(60):
        log.record(Event.RUN_STOPPED, run=str(number))
    assert len(call("log").splitlines()) == 50
    assert len(call("log", "--since", "1h").splitlines()) == 60
    assert [line.split("run=")[1] for line in call("log", "--since", "1h", "--last", "2").splitlines()] == ["58", "59"]
    assert call("log", "--since", "2999-01-01") == ""
    assert CliRunner().invoke(app, ["log", "--since", "yesterday"]).exit_code == 2


def test_the_configuration_is_found(config, monkeypatch, tmp_path):
    monkeypatch.setenv("MELFED_SERVER", str(tmp_path / "none.yaml"))
    with pytest.raises(ServerConfigError, match=r"^\$MELFED_SERVER: .*none\.yaml: no such file"):
        call("clinics")
    monkeypatch.delenv("MELFED_SERVER")
    monkeypatch.setattr(terminal, "SYSTEM_FILE", tmp_path / "etc" / "server.yaml")
    with pytest.raises(
        ServerConfigError, match=r"neither .*server\.yaml nor .*etc/server\.yaml exists, and \$MELFED_S"
    ):
        call("clinics")
    (tmp_path / "etc").mkdir()
    terminal.SYSTEM_FILE.symlink_to(config.path)
    assert [row["name"] for row in json.loads(call("clinics", "--json"))] == ["a", "b"]
    with pytest.raises(ServerConfigError, match=r"^x\.yaml: no such file"):
        call("clinics", "--config", "x.yaml")


def test_a_study_file_is_no_clinics_record(config):
    with pytest.raises(
        ServerConfigError, match=r"s\.yaml: not a clinic's record; they are kits/server/clinics/NAME\.json"
    ):
        call("approve", "s.yaml")


def test_provision_says_what_it_did_and_the_fingerprint_as_it_is_read_aloud(config):
    told = call("provision", "kits/consortium.yaml", "--out", "kits")
    assert "nothing to make: all kits exist" in told
    ca = read_certificate(config.ca_certificate).fingerprint
    (line,) = [line for line in told.splitlines() if line.startswith("CA certificate, SHA-256: ")]
    digits = line.removeprefix("CA certificate, SHA-256: ").split(":")
    assert (len(digits), "".join(digits).lower(), line.upper().endswith(digits[-1])) == (32, ca, True)
    assert "nothing to make" not in call("provision", "kits/consortium.yaml", "--out", "kits", "--renew", "a")


def test_only_approved_clinics_can_be_chosen(running):
    call("revoke", "b")
    for names in ("a,b", "x", ","):
        with pytest.raises(ServerConfigError, match="--clinics"):
            call("run", "s.yaml", "--clinics", names, "--detach")
    call("revoke", "a")
    with pytest.raises(ServerConfigError, match="no clinic is approved"):
        call("run", "s.yaml", "--detach")


def test_a_clinic_is_asked_before_it_is_said_not_to_have_approved(running, monkeypatch):
    digest = call("study", "s.yaml").strip().splitlines()[-1]
    for name in "ab":
        note_said(running.clinics_said, name, Said(approved=("f" * 64,), at="before"))
    answers = {"a": Said(approved=("f" * 64,), version="2"), "b": Said(approved=(digest,))}
    monkeypatch.setattr(status, "ask_clinics", asked(running, answers))
    told = call("run", "s.yaml", "--out", "r", "--detach")
    assert "clinic a has not approved this study" in told
    assert "clinic b" not in told, "it has, since"


def test_of_a_clinic_that_does_not_answer_nothing_is_said(running, monkeypatch):
    note_said(running.clinics_said, "a", Said(approved=("f" * 64,)))
    monkeypatch.setattr(status, "ask_clinics", asked(running, {}))
    assert "clinic a has" not in call("run", "s.yaml", "--out", "r", "--detach")
    note_said(running.clinics_said, "b", Said(approved=("any",)))

    def fail(*_):
        raise ServiceError("SuperLink cannot be reached")

    monkeypatch.setattr(status, "ask_clinics", fail)
    told = call("run", "s.yaml", "--out", "again", "--detach")
    assert "note: some clinics took no part when they were last asked, and now SuperLink cannot be reached" in told


def test_nobody_is_asked_where_nobody_took_no_part(running, monkeypatch):
    note_said(running.clinics_said, "b", Said(approved=("any",)))
    monkeypatch.setattr(status, "ask_clinics", None)
    assert call("run", "s.yaml", "--out", "r", "--detach").splitlines()[-1] == "r"


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


def test_root_and_whoever_else_is_not_the_servers_user_writes_nothing(running, monkeypatch):
    """The server could not read a state that root has written."""
    call("run", "s.yaml", "--out", "r", "--detach")
    before = {path: path.stat().st_mtime_ns for path in running.folder.rglob("*")}
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for words in (
        ("run", "s.yaml", "--detach"),
        ("run", "--resume", "r"),
        ("stop", "r"),
        ("status", "--ask"),
        ("start", str(running.path)),
    ):
        with pytest.raises(StorageError, match=r"belongs to \w+; give this command as that user .*runuser -u \w+ -- "):
            call(*words)
    assert {path: path.stat().st_mtime_ns for path in running.folder.rglob("*")} == before
    call("status")
    call("revoke", "a")  # what root writes there is for everybody to read
    assert (running.clinics / "a.json").stat().st_mode & 0o777 == 0o644


def test_what_may_not_be_looked_into_is_one_line(capsys, monkeypatch):
    strange = typer.Typer()

    @strange.command()
    def look() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/x/study.yaml")

    monkeypatch.setattr(sys, "argv", ["melfed-server"])
    with pytest.raises(SystemExit) as left:
        run_app(strange)
    assert left.value.code == StorageError.exit_code
    assert capsys.readouterr().err.startswith("error: /x/study.yaml: Permission denied; ")


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
    assert "1 record, chain whole" in call("log", "verify")
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
