"""An observer that draws nothing, and keeps what is to be known in the process's own log."""

import inspect

import pytest

from melfed.server.federation.observer import Observer, Silent


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
            assert inspect.signature(method) == inspect.signature(getattr(Silent, name)), name
