"""Cells run one after the other in this process, in place of a pool of processes."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.comparison import one_cell, running
from melfed.simulations.comparison.one_cell import Call, Ran
from melfed.simulations.comparison.running import Machine, Submit, Watch


class Recorder:
    """A `Watch` that writes down what it is told."""

    def __init__(self) -> None:
        self.told_of: list[tuple[object, ...]] = []

    def __getattr__(self, name: str):
        return lambda *arguments: self.told_of.append((name, *arguments))

    def reading(self):
        return contextlib.nullcontext(lambda _done, _total: None)

    def of(self, name: str) -> list[tuple[object, ...]]:
        return [rest for first, *rest in self.told_of if first == name]


def run_inline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Have calls run here; returns the list of their names and cells, which grows."""
    calls: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def tasks(place: Path, _machine: Machine, _watch: Watch) -> Iterator[tuple[Submit, int]]:
        def submit(call: Call, number: int) -> "Future[Ran]":
            calls.append((call.__name__, number))
            future: Future[Ran] = Future()
            try:
                future.set_result(call(place, number))
            except Exception as error:  # noqa: BLE001 (as a process hands it over)
                future.set_exception(error)
            return future

        yield submit, 1

    monkeypatch.setattr(running, "_tasks", tasks)
    monkeypatch.setattr(one_cell, "_compute", lambda _job: None)  # this process keeps its threads
    return calls


def fail_at(monkeypatch: pytest.MonkeyPatch, learning_rate: float) -> list[bool]:
    """Let cells with a learning rate fail, for as long as the only item of the list is true."""
    real, broken = one_cell.run_study, [True]

    def sometimes(study: StudyProtocol, *arguments: Any, **options: Any) -> Any:
        if broken[0] and study.training.learning_rate == learning_rate:
            raise RunError("a cable was pulled")
        return real(study, *arguments, **options)

    monkeypatch.setattr(one_cell, "run_study", sometimes)
    return broken
