"""What a tracker is: whoever keeps the numbers of runs, round by round, for people to compare.

A tracker is told pooled numbers alone: metrics over all clinics, the loss, bytes and seconds of a round, and in the end
ε. No clinic's name, no reason of a clinic, no image and no score of one ever reaches it.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from melfed.common.errors import ServiceError


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        name: of the study.
        digest: of the study.
        identity: of the run, drawn at random when its folder was made; the same when the run is resumed.
        folder: of the run, where a tracker may keep its files, each in a folder of its own.
        keys: of the study, by their paths, with their values as text.
        first_round: the first round that will be told: more than 1 where an earlier process has told the others.
    """

    name: str
    digest: str
    identity: str
    folder: Path
    keys: Mapping[str, str]
    first_round: int


class Tracker(Protocol):
    """Keeps the numbers of one run. Methods are called in this order, from the thread that conducts the run.

    What cannot be kept is a `ServiceError`, one line: it is told, the tracker hears no more, and the run goes on.
    """

    def started(self, run: TrackedRun) -> None:
        """The run begins or goes on; a run of the same identity is one track, and goes on where it stood."""

    def record(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """A round's numbers by name, such as `train_loss` or `validation/auroc`; may come in several calls."""

    def finished(self, round_number: int, numbers: Mapping[str, float]) -> None:
        """The run has finished after this round, with these numbers of its final model, such as `test/auroc`."""

    def close(self) -> None:
        """No more will come, whether the run has finished or not."""


def require(package: str, extra: str) -> None:
    """Raise ServiceError where a tracker's package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ServiceError(f"tracker {extra}: {package} is not installed: pip install 'melfed[{extra}]'")


@contextlib.contextmanager
def told(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a tracker's package raises into one line. Raises ServiceError."""
    try:
        yield
    except kinds as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ServiceError(f"tracker {name}: {first}") from error
