"""TensorBoard: event files in `RUN/tensorboard`; `tensorboard --logdir runs` compares all runs of a folder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from melfed.server.trackers.tracker import TrackedRun, require, told

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """A `melfed.server.trackers.tracker.Tracker` that writes event files."""

    def __init__(self) -> None:
        require("tensorboard", "tensorboard")
        self._writer: SummaryWriter | None = None

    def started(self, run: TrackedRun) -> None:
        """See `Tracker`. A resumed run's rounds that will be told again are taken out of the track."""
        from torch.utils.tensorboard import SummaryWriter

        with told("tensorboard", OSError):
            self._writer = SummaryWriter(
                str(run.folder / FOLDER), purge_step=run.first_round if run.first_round > 1 else None
            )
            table = "\n".join(f"    {key}: {value}" for key, value in run.keys.items())
            self._writer.add_text("study", f"    digest: {run.digest}\n{table}", 0)

    def record(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if self._writer is None:
            return
        with told("tensorboard", OSError):
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, round_number)
            self._writer.flush()

    def finished(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.record(round_number, numbers)

    def close(self) -> None:
        """See `Tracker`."""
        if self._writer is not None:
            with told("tensorboard", OSError):
                self._writer.close()


TRACKER = TensorBoard
