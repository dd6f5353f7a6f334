"""A run's folder with events by hand, and a tracker that only listens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from melfed.common.errors import ServiceError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.server.trackers.tracker import TrackedRun, Tracker

STUDY = StudyProtocol(name="small", model=ModelSpec(weights="/a/patient/somewhere", weights_sha256="0" * 64))


@dataclass
class Listener:
    """Notes what it is told; fails at a round where it is to."""

    fails_at: int = 0
    calls: list[tuple[str, int, dict[str, float]]] = field(default_factory=list)
    runs: list[TrackedRun] = field(default_factory=list)
    closed: int = 0

    def started(self, run: TrackedRun) -> None:
        self.runs.append(run)

    def record(self, round_number: int, numbers: Mapping[str, float]) -> None:
        if round_number == self.fails_at:
            raise ServiceError("tracker listener: no room")
        self.calls.append(("record", round_number, dict(numbers)))

    def finished(self, round_number: int, numbers: Mapping[str, float]) -> None:
        self.calls.append(("finished", round_number, dict(numbers)))

    def close(self) -> None:
        self.closed += 1


def folder_of_a_run(path: Path) -> RunFolder:
    return RunFolder.create(path, STUDY)


def add_round(folder: RunFolder, number: int, loss: float | None = 0.5) -> None:
    folder.append(
        {
            "event": "round",
            "round": number,
            "train_loss": loss,
            "seconds": 2.0,
            "bytes_up": 10,
            "bytes_down": 20,
            "answered": ["clinic Anna Berg"],
            "failed": {"clinic B": "image of Anna Berg is broken"},
            "declined": {},
            "clinics": {"clinic Anna Berg": {"train_loss": loss, "weight": 1.0, "bytes_up": 10}},
        }
    )


def add_validation(folder: RunFolder, number: int) -> None:
    scores, targets = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0, 0, 1, 1])
    histogram = ScoreHistogram.from_scores(scores, targets, np.arange(4))
    folder.append_validation(number, histogram, {"clinic Anna Berg": histogram})


def a_track(tracker: Tracker, folder: RunFolder, first_round: int, rounds: list[int], *, ends: bool) -> None:
    """Tell a tracker some rounds of a run as one process does."""
    keys = {"federation.rounds": "4", "training.learning_rate": "0.1"}
    tracker.started(TrackedRun("small", "d" * 64, folder.identity, folder.path, keys, first_round))
    for number in rounds:
        tracker.record(number, {"train_loss": 1 / number, "validation/auroc": number / 10})
    if ends:
        tracker.finished(rounds[-1], {"test/auroc": 0.9, "epsilon": 3.0})
    tracker.close()
