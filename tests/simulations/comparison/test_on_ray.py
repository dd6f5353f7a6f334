"""Cells as Ray's tasks: each with its share, and what a task raises comes back."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.simulations.comparison.on_ray import ray_tasks
from melfed.simulations.comparison.one_cell import Ran
from melfed.simulations.engine.workspace import workspace


def call(place: Path, number: int) -> Ran:
    if number == 1:
        raise ZeroDivisionError("a fault")
    return Ran(number, (place / "word").read_text())


@pytest.mark.exhaustive
def test_calls_run_as_tasks() -> None:
    with workspace() as place:
        (place / "word").write_text("here")
        with ray_tasks(place, None, 1.0, 0.0) as (submit, room):
            assert room >= 1
            futures = [submit(call, number) for number in range(3)]
            assert futures[0].result(60) == Ran(0, "here")
            assert "a fault" in str(futures[1].exception(60))
            assert futures[2].result(60) == Ran(2, "here")


def test_a_cluster_that_is_not_there_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance at the address\nspecified")

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(RunError, match=r"Ray 127.0.0.1:1: cannot be reached \(Could not find"),
        ray_tasks(tmp_path, "127.0.0.1:1", 1.0, 0.0),
    ):
        pass


def test_more_than_the_cluster_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with (
        pytest.raises(RunError, match=r"2 CPUs and 0 GPUs, and a cell asks for 1 and 0\.5"),
        ray_tasks(tmp_path, "10.0.0.1:6379", 1.0, 0.5),
    ):
        pass
