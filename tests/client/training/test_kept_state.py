"""What a clinic keeps of a run: the newest that is older than the round, on disk, for its owner alone."""

import stat
from pathlib import Path

import numpy as np
import pytest

from melfed.client.training.kept_state import KEPT, KeptState, require_state
from melfed.common.errors import RunError, StudyError
from tests.client.small import small_study


def one(value: float) -> dict[str, np.ndarray]:
    return {"x": np.array([value], np.float32)}


def test_a_round_begins_from_what_was_kept_before_it(tmp_path: Path) -> None:
    state = KeptState(tmp_path / "states", "d" * 64)
    assert state.before("run", 1) == {}
    for number in (1, 2, 5):
        state.keep("run", number, one(number))
    found = {number: float(state.before("run", number).get("x", [0.0])[0]) for number in range(1, 8)}
    # Round 1 can be asked again before anything was kept; a clinic need not be in each round.
    assert found == {1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 5, 7: 5}


def test_a_round_that_is_trained_again_takes_the_place_of_all_later_ones(tmp_path: Path) -> None:
    state = KeptState(tmp_path, "d" * 64)
    for number in range(1, 7):
        state.keep("run", number, one(number))
    assert len(list(state.place("run").iterdir())) == KEPT
    state.keep("run", 5, one(50))
    assert float(state.before("run", 9)["x"][0]) == 50
    assert float(state.before("run", 5)["x"][0]) == 4


def test_runs_and_studies_are_apart_and_nobody_else_reads_them(tmp_path: Path) -> None:
    state = KeptState(tmp_path / "states", "d" * 64)
    state.keep("run", 1, one(1))
    assert state.before("another", 2) == {}
    assert KeptState(tmp_path / "states", "e" * 64).before("run", 2) == {}
    (file,) = state.place("run").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_damaged_file_is_said_and_never_taken_for_none(tmp_path: Path) -> None:
    state = KeptState(tmp_path, "d" * 64)
    state.keep("run", 1, one(1))
    (file,) = state.place("run").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        state.before("run", 2)


def test_without_a_folder_it_is_refused() -> None:
    with pytest.raises(StudyError, match="scaffold keeps state at the clinic"):
        require_state(None, small_study(federation={"algorithm": "scaffold"}, training={"optimizer": "sgd"}))
    with pytest.raises(StudyError, match=r"^evaluation.local_baseline keeps state at the clinic"):
        require_state(None, small_study(evaluation={"local_baseline": True}))
