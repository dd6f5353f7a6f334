"""Trackers of runs, a file each: a module with `TRACKER`, a class of `melfed.server.trackers.tracker.Tracker`.

Importing this loads none of their packages: each is loaded when a run with it begins.
"""

from collections.abc import Sequence
from typing import Final

from melfed.common.errors import StudyError
from melfed.common.registry import entries
from melfed.server.trackers.tracker import Tracker

TRACKERS: Final[dict[str, type[Tracker]]] = dict(entries(__name__, __path__, "TRACKER"))
"""Every tracker by the name that commands and server.yaml use."""


def trackers_of(named: Sequence[str | Tracker]) -> list[Tracker]:
    """Return trackers by their names; a tracker of one's own stands for itself.

    Raises:
        StudyError: there is none of a name.
        ServiceError: its package is not installed.

    >>> trackers_of(["paper"])
    Traceback (most recent call last):
        ...
    melfed.common.errors.StudyError: no tracker 'paper'; there are mlflow, tensorboard, wandb
    """
    for name in named:
        if isinstance(name, str) and name not in TRACKERS:
            raise StudyError(f"no tracker {name!r}; there are {', '.join(sorted(TRACKERS))}")
    return [TRACKERS[each]() if isinstance(each, str) else each for each in named]
