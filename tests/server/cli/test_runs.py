"""The commands of `melfed-server` about clinics and runs, without a server that runs."""

import errno
import re
import sys
import threading
import time
from pathlib import Path

import pytest
import typer

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import (
    CancelledError,
    QuorumError,
    RunError,
    ServerConfigError,
    ServiceError,
    StorageError,
    StudyError,
)
from melfed.common.study.file import read_study
from melfed.common.study.protocol import StudyProtocol
from melfed.common.terminal.console import run_app
from melfed.server.cli import status
from melfed.server.cli.follow import Tail, follow, raise_unless_completed, words_of
from melfed.server.cli.runs import ASK_SECONDS
from melfed.server.clinics.self_reports import Said, note_said
from melfed.server.config import ServerConfig
from melfed.server.federation import memory
from melfed.server.runs.request import queue_run, read_request
from melfed.server.runs.state import RunState, change_state, read_state
from tests.server.cli.commands import call


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
    by_four = "evaluation.subgroups=[age, sex, source, site, skin_type]"
    each = re.search(
        r"note: a subgroup by age, sex, site, skin_type needs about (\d+) patients with a melanoma for one",
        call("study", "s.yaml", "--set", private, "--set", by_four).replace("\n", " "),
    )
    assert abs(int(each[1]) - 2 * int(one[1])) <= 2, "√4 times the noise"
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


def test_a_run_that_does_not_fit_in_memory_is_refused_before_it_begins(running, monkeypatch):
    call("run", "s.yaml", "--out", "old", "--detach")
    change_state(running.runs / "old", status="failed", wanted=False)
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000_000)
    refused = r"needs \d\.\d GB of this server's memory with 2 clinics, and 0\.1 GB are left"
    for words in (("s.yaml", "--out", "r"), ("--resume", "old")):
        with pytest.raises(RunError, match=refused):
            call("run", *words, "--detach")
    assert not (running.runs / "r").exists()
    state = read_state(running.runs / "old")
    assert (state.status, state.wanted) == ("failed", False)


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


def test_a_second_run_says_who_waits_for_whom(running):
    call("run", "s.yaml", "--out", "first", "--clinics", "b", "--detach")
    told = call("run", "s.yaml", "--out", "second", "--detach")
    assert "run first is under way as well: at b the rounds of both wait for each other, in turn" in told
    assert "under way as well" not in call("run", "s.yaml", "--out", "third", "--clinics", "a", "--detach").replace(
        "run second is under way as well: at a", ""
    )


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
