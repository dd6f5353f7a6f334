"""TensorBoard's files, read back by TensorBoard's own reader."""

from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.server.trackers.tensorboard import FOLDER, TensorBoard
from tests.server.trackers.told import a_track, folder_of_a_run

pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install 'melfed[tensorboard]')")


def read(folder: Path) -> dict[str, list[tuple[int, object]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / FOLDER))
    events.Reload()
    return {name: [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_resumed_run_is_one_track(tmp_path: Path) -> None:
    folder = folder_of_a_run(tmp_path / "run")
    # The first process was killed after round 3, whose numbers did not count.
    a_track(TensorBoard(), folder, 1, [1, 2, 3], ends=False)
    a_track(TensorBoard(), folder, 3, [3, 4], ends=True)
    found = read(folder.path)
    assert found["train_loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert found["test/auroc"] == [(4, 0.9)]
    assert found["epsilon"] == [(4, 3.0)]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = folder_of_a_run(tmp_path / "run")
    (folder.path / FOLDER).write_text("in the way")
    with pytest.raises(ServiceError, match=r"^tracker tensorboard: "):
        a_track(TensorBoard(), folder, 1, [1], ends=False)
