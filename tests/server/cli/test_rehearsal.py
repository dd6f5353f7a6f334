"""`melfed-server study --rehearse`: what clinics tell of a round, and what follows for quorum and deadline."""

import os
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.common.study.file import read_study
from melfed.common.study.protocol import StudyProtocol
from melfed.server.cli import status
from melfed.server.clinics.self_reports import Said, note_said
from melfed.server.config import ServerConfig
from melfed.server.daemon.state import ClinicRow, DaemonState, write_daemon_state
from tests.server.cli.commands import call


def online(config: ServerConfig, *names: str) -> None:
    rows = tuple(
        ClinicRow(name=name, online=name in names, revoked=False, node=1, since=None, certificate_ends="2030-01-01")
        for name in "ab"
    )
    write_daemon_state(config.daemon_state, DaemonState(pid=os.getpid(), started="now", clinics=rows))


def answers(monkeypatch: pytest.MonkeyPatch, config: ServerConfig, said: dict[str, Said]) -> list[StudyProtocol]:
    """In the place of asking the clinics; returns what they were asked about."""
    asked: list[StudyProtocol] = []

    def ask(_config: ServerConfig, _seconds: float, about: StudyProtocol) -> None:
        asked.append(about)
        for name, told in said.items():
            note_said(config.clinics_said, name, told.model_copy(update={"timed": told.timed and about.digest}))

    monkeypatch.setattr(status, "ask_clinics", ask)
    return asked


def test_what_is_proposed_seals_a_study_that_has_it(running: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    online(running, "a", "b")
    told = {"a": Said(round_minutes=2, timed="it"), "b": Said(round_minutes=32, timed="it")}
    asked = answers(monkeypatch, running, told)
    said = call("study", "s.yaml", "--rehearse")
    assert asked[0].digest == said.strip().splitlines()[-1], "they are asked about what they have approved"
    assert "clinic a: a round takes 2 min at most" in said
    assert "proposed: federation.quorum 1: of so few nobody can be missed" in said
    assert "proposed: federation.deadline_seconds 7680: 4 times the slowest, b (32 min at most)" in said
    assert "2 rounds take 64 min at most" in said
    command = next(line for line in said.splitlines() if line.startswith("melfed-server study "))
    call(*command.replace("SEALED.yaml", "sealed.yaml").split()[1:])
    assert read_study(Path("sealed.yaml")).federation.deadline_seconds == 7680
    again = call("study", "sealed.yaml", "--rehearse")
    assert "the study has these values already" in again


def test_why_a_clinic_has_no_figure(running: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    online(running, "a")
    note_said(running.clinics_said, "b", Said(round_minutes=64, timed="of another time"))
    answers(monkeypatch, running, {"a": Said()})
    said = call("study", "s.yaml", "--rehearse")
    assert "clinic a: does not tell how long a round takes (tell.round_time, or its approval was not timed)" in said
    assert "clinic b: is offline" in said
    assert "there is nothing to propose" in said
    answers(monkeypatch, running, {"a": Said(reason="not approved here"), "b": Said(round_minutes=1, timed="it")})
    said = call("study", "s.yaml", "--rehearse")
    assert "clinic a: takes no part: not approved here" in said
    assert "federation.deadline_seconds 600: the slowest, b, needs 1 min at most" in said


def test_a_server_that_does_not_run_asks_nobody(config: ServerConfig) -> None:
    with pytest.raises(ServiceError):
        call("study", "s.yaml", "--rehearse")


def test_a_study_that_one_clinic_can_end_says_so(config: ServerConfig) -> None:
    assert "federation.quorum is 1" not in call("study", "s.yaml"), "of two, nobody can be missed"
