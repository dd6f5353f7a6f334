"""A run's `state.json`: whole at any time, and nobody's change undoes another's."""

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.runs.state import RunState, change_state, read_state, write_state


def test_a_state_reads_back_with_the_time_of_its_writing(tmp_path: Path) -> None:
    state = RunState(wanted=False, status="failed", reason="quorum: β", flower_run=2**63 + 5, round=7)
    written = write_state(tmp_path, state)
    assert read_state(tmp_path) == written == state.model_copy(update={"updated": written.updated})
    age = datetime.now(UTC) - datetime.fromisoformat(written.updated)
    assert abs(age.total_seconds()) < 60
    assert ((tmp_path / "state.json").stat().st_mode & 0o777) == 0o600
    assert set(json.loads((tmp_path / "state.json").read_text())) == {
        "wanted", "status", "reason", "flower_run", "round", "doing", "updated"
    }  # fmt: skip


def test_where_none_was_written_there_is_none(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    assert change_state(tmp_path, round=1).model_dump(exclude={"updated"}) == {
        "wanted": True, "status": "queued", "reason": "", "flower_run": None, "round": 1, "doing": ""
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "dancing"}', '{"round": -1}', '{"other": 1}', "\xff"])
def test_a_damaged_state_is_told_of(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match=r"state\.json: cannot be read .*; delete it and go on with --resume"):
        read_state(tmp_path)


def test_a_change_leaves_the_rest_as_it_was_and_is_checked(tmp_path: Path) -> None:
    change_state(tmp_path, flower_run=5, round=3)
    after = change_state(tmp_path, wanted=False)
    assert (after.flower_run, after.round, after.wanted) == (5, 3, False)
    with pytest.raises(ValueError, match="status"):
        change_state(tmp_path, status="dancing")
    assert read_state(tmp_path) == after


def _count(folder: Path, field: str) -> None:
    for number in range(1, 31):
        change_state(folder, **{field: number})


def test_changes_of_several_processes_do_not_undo_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_count, args=(tmp_path, field)) for field in ("round", "flower_run")]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    state = read_state(tmp_path)
    assert state is not None
    assert (state.round, state.flower_run) == (30, 30)
