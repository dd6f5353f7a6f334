"""How a run is conducted: when it stops, and what its state says of how it ended."""

import threading
from pathlib import Path

import pytest

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, read_log
from melfed.common.errors import MelfedError, QuorumError, StorageError
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.context import Conduct, StoppedError, completed, standing
from melfed.server.federation.observer import Silent
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import RunState, read_state, write_state


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", StudyProtocol(name="s"))
    write_state(folder.path, RunState())
    return folder


def deployed(folder: RunFolder) -> Conduct:
    return Conduct(frozenset("ab"), deployed=True, audit=AuditLog(folder.path / "audit.jsonl"), flower_run=9)


def events(folder: RunFolder) -> list[int]:
    path = folder.path / "audit.jsonl"
    return [row["id"] for row in read_log(path)] if path.exists() else []


def test_clinics_are_expected_by_name_or_number() -> None:
    assert (Conduct(3).clinics, Conduct(frozenset("ab")).clinics) == (3, 2)


def test_a_run_that_is_to_stop_stops_at_the_next_interval(folder: RunFolder) -> None:
    conduct = Conduct(1, stop=threading.Event(), poll_seconds=0.001)
    conduct.wait(folder, Silent())
    conduct.stop.set()
    with pytest.raises(StoppedError, match=r"run: stopped early; go on with --resume .*/run$"):
        conduct.wait(folder, Silent())


def test_while_it_goes_on_it_runs_and_in_the_end_it_is_complete(folder: RunFolder) -> None:
    conduct = deployed(folder)
    with standing(folder, conduct):
        state = read_state(folder.path)
        assert state is not None
        assert (state.status, state.flower_run, state.wanted) == ("running", 9, True)
    completed(folder, conduct)
    state = read_state(folder.path)
    assert state is not None
    assert (state.status, state.wanted, state.reason) == ("completed", False, "")
    assert events(folder) == [Event.RUN_COMPLETED.id]


@pytest.mark.parametrize(
    ("error", "status", "wanted", "reason", "event"),
    [
        (QuorumError("too few"), "failed", False, "quorum: too few", Event.RUN_FAILED),
        (MelfedError("broken"), "failed", False, "broken", Event.RUN_FAILED),
        (StorageError("disk full"), "failed", True, "disk full", Event.RUN_FAILED),
        (StoppedError("stopped early"), "stopped", False, "stopped early", Event.RUN_STOPPED),
    ],
)
def test_how_it_ended_is_written_down_and_want_of_space_alone_keeps_it_wanted(
    folder: RunFolder, error: MelfedError, status: str, wanted: bool, reason: str, event: Event
) -> None:
    with pytest.raises(type(error)), standing(folder, deployed(folder)):
        raise error
    state = read_state(folder.path)
    assert state is not None
    assert (state.status, state.wanted, state.reason) == (status, wanted, reason)
    assert events(folder) == [event.id]


def test_a_bug_leaves_the_run_wanted_as_if_the_process_had_been_killed(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), standing(folder, deployed(folder)):
        raise ZeroDivisionError
    state = read_state(folder.path)
    assert state is not None
    assert (state.status, state.wanted) == ("running", True)


def test_a_simulation_writes_nothing(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", StudyProtocol(name="s"))
    with standing(folder, Conduct(2)):
        pass
    completed(folder, Conduct(2))
    assert read_state(folder.path) is None
