"""Checkpoints that were deleted and events that were cut are said, or refused; what a crash leaves is neither."""

import re
from pathlib import Path

import numpy as np
import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.resumed import find_state

STUDY = StudyProtocol()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of five rounds so far."""
    folder = RunFolder.create(tmp_path / "run", STUDY)
    for number in range(6):
        if number:
            folder.append({"event": "round", "round": number})
        save_checkpoint(folder.checkpoints, Checkpoint(number, STUDY.digest, {"w": np.ones(3, np.float32)}, {}))
    return folder


def found(folder: RunFolder, first: int = 0) -> tuple[int | None, list[str]]:
    told: list[str] = []
    state = find_state(folder, STUDY.digest, told.append, first=first)
    return None if state is None else state.round, told


def keep_lines(folder: RunFolder, lines: int) -> None:
    path = folder.path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def test_a_whole_folder_says_nothing(folder: RunFolder) -> None:
    assert found(folder) == (5, [])


def test_a_round_whose_checkpoint_a_crash_kept_back_is_nothing_to_tell(folder: RunFolder) -> None:
    folder.append({"event": "round", "round": 6})
    assert found(folder) == (5, [])


def test_a_new_run_has_no_state(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "new", STUDY)
    assert found(folder) == (None, [])
    folder.append({"event": "round", "round": 1})
    assert found(folder, first=1) == (None, []), "a baseline's first checkpoint is of round 1"
    with pytest.raises(RunError, match="there is no checkpoint"):
        found(folder)


def test_deleted_checkpoints_do_not_begin_the_run_anew(folder: RunFolder) -> None:
    for path in folder.checkpoints.iterdir():
        path.unlink()
    with pytest.raises(RunError, match=r"checkpoints: metrics\.jsonl has round 5, but there is no checkpoint: bring"):
        found(folder)


def test_a_checkpoint_older_than_the_one_before_the_last_is_refused(folder: RunFolder) -> None:
    folder.append({"event": "round", "round": 6})
    folder.append({"event": "round", "round": 7})
    with pytest.raises(RunError, match="has round 7, but the newest checkpoint is of round 5"):
        found(folder)


@pytest.mark.parametrize(("lines", "words"), [(4, "lacks 5 of 5"), (2, r"lacks 3 \(3 to 5\) of 5"), (0, r"\(1 to 5\)")])
def test_a_cut_file_of_events_is_said(folder: RunFolder, lines: int, words: str) -> None:
    keep_lines(folder, lines)
    state, told = found(folder)
    assert state == 5
    (line,) = told
    assert re.search(words, line), line
    assert "the file was cut" in line
