"""Following a run: what is said of the server, of other runs, and where nothing else is said. The rest: `test_runs`."""

from collections.abc import Sequence
from pathlib import Path

from melfed.common.locks import only_one
from melfed.common.study.protocol import StudyProtocol
from melfed.server.cli.follow import LOOK_SECONDS, SILENT_SECONDS, Others, Presence, Spoken, others
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.request import queue_run
from melfed.server.runs.state import NAME, change_state


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(runs: Path, name: str, clinics: Sequence[str]) -> RunFolder:
    return queue_run(runs / name, StudyProtocol(name="s"), clinics, [])


def test_runs_that_wait_for_each_other_are_named_with_the_clinics(tmp_path: Path) -> None:
    own = run(tmp_path, "own", "abc")
    said, clock = list[str](), Clock()
    watching = Others(tmp_path, own, said.append, clock)

    def look() -> list[str]:
        before, clock.now = len(said), clock.now + LOOK_SECONDS
        watching.look()
        return said[before:]

    assert look() == []
    other = run(tmp_path, "other", "bcd")
    run(tmp_path, "apart", "de")
    expected = "run other is under way as well: at b, c the rounds of both wait for each other, in turn"
    assert look() == [expected]
    assert look() == [], "once"
    change_state(other.path, wanted=False, status="stopped")
    assert look() == ["run other is over: its clinics compute for this run alone"]


def test_a_run_that_is_damaged_or_is_not_wanted_is_nobody_to_wait_for(tmp_path: Path) -> None:
    own = run(tmp_path, "own", "ab")
    (run(tmp_path, "damaged", "ab").path / NAME).write_text("{")
    change_state(run(tmp_path, "done", "ab").path, wanted=False, status="completed")
    assert list(others(tmp_path, own)) == []


def test_where_nothing_is_said_for_long_it_is_said_what_is_waited_for() -> None:
    said, clock = list[str](), Clock()
    spoken = Spoken(said.append, clock)
    for seconds in range(40):
        clock.now = float(seconds)
        if seconds == 3:
            spoken.told()
        spoken.doing(f"round 1: {seconds // 10} of 3 have answered")
    first, *later = said
    assert first == "round 1: 0 of 3 have answered, for 8 s"
    assert later == [f"round 1: {n} of 3 have answered{long}" for n in (1, 2, 3) for long in ("", ", for 8 s")]
    clock.now += SILENT_SECONDS
    spoken.doing("")
    assert len(said) == 7


def test_for_days_it_is_said_each_minute() -> None:
    said, clock = list[str](), Clock()
    spoken = Spoken(said.append, clock)
    for seconds in range(3601):
        clock.now = float(seconds)
        spoken.doing("waiting for the clinics")
    assert said[:2] == ["waiting for the clinics, for 5 s", "waiting for the clinics, for 10 s"]
    assert said[-1] == "waiting for the clinics, for 59 min"
    assert len(said) == 11 + 59


def test_the_end_and_the_return_of_the_server_are_told_once_each(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    told: list[bool] = []
    presence = Presence(lock, told.append)
    with only_one(lock, "the server is run"):
        presence.look()
        assert told == []
    presence.look()
    presence.look()
    assert told == [False]
    with only_one(lock, "the server is run"):
        presence.look()
        presence.look()
    assert told == [False, True]
