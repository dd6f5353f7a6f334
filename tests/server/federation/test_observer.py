"""Observers of a run: one that draws nothing, and one that keeps in `state.json` what is waited for."""

import inspect
from pathlib import Path

import pytest

from melfed.common.errors import StorageError
from melfed.server.federation import observer
from melfed.server.federation.observer import STATE_SECONDS, InState, Observer, Silent
from melfed.server.runs.state import RunState, read_state, write_state


def test_it_takes_every_call_and_says_only_what_is_to_be_known(caplog: pytest.LogCaptureFixture) -> None:
    silent: Observer = Silent()
    silent.started({}, 1, 2)
    silent.watch(dict)
    silent.round_started(1, ["a"])
    silent.replied("a", "broken", declined=True)
    silent.waiting()
    silent.round_finished(1, None, 0.5)
    silent.evaluating(["a"])
    assert caplog.messages == []
    silent.noticed("clinic a has %s another version")
    assert caplog.messages == ["clinic a has %s another version"]


def test_its_calls_are_those_of_the_protocol() -> None:
    for name, method in inspect.getmembers(Observer, inspect.isfunction):
        if not name.startswith("_"):
            for kind in (Silent, InState):
                assert inspect.signature(method) == inspect.signature(getattr(kind, name)), name


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_deployed_run_says_how_many_have_answered(tmp_path: Path) -> None:
    write_state(tmp_path, RunState(status="running", round=2))
    clock = Clock()

    def doing() -> str:
        clock.now += STATE_SECONDS
        telling.waiting()
        state = read_state(tmp_path)
        assert state is not None
        assert (state.status, state.round) == ("running", 2), "the rest stays"
        return state.doing

    telling = InState(tmp_path, clock)
    assert doing() == "waiting for the clinics"
    telling.replied("a", None)
    assert doing() == "1 clinic ready"
    telling.round_started(3, ["a", "b", "c"])
    assert doing() == "round 3: 0 of 3 have answered"
    telling.replied("a", None)
    telling.replied("b", "offline")
    telling.replied("c", None)
    assert doing() == "round 3: 2 of 3 have answered"
    telling.evaluating(["a", "b", "c"])
    assert doing() == "final evaluation: 0 of 3 have answered"
    telling.doing("making the tables and the report")
    state = read_state(tmp_path)
    assert state is not None
    assert state.doing == "making the tables and the report", "at once"


def test_a_thousand_answers_are_not_a_thousand_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path, RunState(status="running"))
    clock, written = Clock(), list[str]()
    monkeypatch.setattr(observer, "change_state", lambda _folder, doing: written.append(doing))
    telling = InState(tmp_path, clock)
    telling.round_started(1, [str(number) for number in range(1000)])
    for number in range(1000):
        clock.now += STATE_SECONDS / 100
        telling.replied(str(number), None)
    assert len(written) <= 13
    clock.now += STATE_SECONDS
    telling.waiting()
    assert written[-1] == "round 1: 1000 of 1000 have answered"


def test_a_full_disk_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(observer, "change_state", full)
    InState(tmp_path).round_started(1, ["a"])
