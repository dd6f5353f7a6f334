"""An observer of a run that tells trackers its pooled numbers, each once, whatever interrupts the run.

The numbers are read from the run's own events (`metrics.jsonl`), where they stand before anybody is told of them.
`RUN/trackers.json` has the last round that each tracker was told: a resumed run goes on from there.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from melfed.common.errors import ServiceError
from melfed.common.files import write_text
from melfed.common.metrics.exact import EvaluationMetrics
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import histogram_from_lists
from melfed.common.study.file import documented_keys
from melfed.common.study.in_force import in_force
from melfed.server.federation.observer import Observer
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary
from melfed.server.trackers.tracker import TrackedRun, Tracker

NAME = "trackers.json"
KINDS = ("round", "validation")
OF_ROUND = ("train_loss", "seconds", "bytes_up", "bytes_down")
INTERVALS = ("auroc", "auprc", "balanced_accuracy", "sensitivity_at_90_specificity", "sensitivity_at_95_specificity")
NUMBERS = ("brier", "ece")
LEFT_OUT = frozenset({"model.weights"})
"""Keys of a study that say where something is on a machine."""


class Tracking:
    """An observer that passes all that it hears on to another one, and tells trackers each round's numbers.

    A context manager: at its end all trackers are closed.
    """

    def __init__(self, observer: Observer, trackers: Sequence[Tracker]) -> None:
        """Make the observer.

        Args:
            observer: hears everything.
            trackers: hear numbers from `follow` on.
        """
        self._observer = observer
        self._trackers = {type(tracker).__name__: tracker for tracker in trackers}
        self._folder: RunFolder | None = None
        self._told: dict[str, dict[str, int]] = {}

    def __getattr__(self, name: str) -> Any:
        """Everything else is the other observer's."""
        return getattr(self._observer, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, tracker in list(self._trackers.items()):
            self._tell(name, tracker.close)

    @property
    def observer(self) -> Observer:
        """Itself, as those who conduct a run take it."""
        return cast(Observer, self)

    def follow(self, folder: RunFolder) -> None:
        """Take the run whose numbers are told. Raises ServiceError where a tracker cannot begin; nor does the run."""
        self._folder, self._told = folder, _read(folder)
        study = folder.study()
        content = in_force(study)
        keys = {key: value for key, value in _flat(content) if key in _KNOWN - LEFT_OUT}
        for name, tracker in self._trackers.items():
            first = 1 + self._told.get(name, {}).get("round", 0)
            tracker.started(TrackedRun(study.name, study.digest, folder.identity, folder.path, keys, first))

    def started(self, clinics: Mapping[str, Counts], first_round: int, rounds: int) -> None:
        """See `melfed.server.federation.observer.Observer`. What is trained again is told again."""
        self._observer.started(clinics, first_round, rounds)
        for told in self._told.values():
            told.update({kind: min(number, first_round - 1) for kind, number in told.items()})
        self._tell_events()

    def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        self._observer.round_finished(round_number, loss, seconds)
        self._tell_events()

    def finished(self, summary: RunSummary) -> None:
        """Tell the final model's numbers: on the pooled test parts, what ε was spent, and how long all took."""
        self._tell_events()
        numbers = {"run_seconds": summary.seconds, **_metrics("test", summary.test)}
        if summary.privacy is not None and summary.privacy.epsilon_spent is not None:
            numbers["epsilon"] = summary.privacy.epsilon_spent
        last = max((row.round for row in summary.rounds), default=0)
        for name, tracker in list(self._trackers.items()):
            self._tell(name, partial(tracker.finished, last, numbers))

    def _tell_events(self) -> None:
        """Tell every tracker the events that it was not told yet, and note that it was."""
        if self._folder is None or not self._trackers:
            return
        events = [(event["event"], event["round"], event) for event in self._folder.events() if event["event"] in KINDS]
        for name, tracker in list(self._trackers.items()):
            told = self._told.setdefault(name, dict.fromkeys(KINDS, 0))
            for kind, number, event in events:
                if number > told[kind] and name in self._trackers:
                    numbers = _of_round(event) if kind == "round" else _of_validation(event)
                    self._tell(name, partial(tracker.record, number, numbers))
            told.update({kind: max((n for k, n, _ in events if k == kind), default=told[kind]) for kind in KINDS})
        write_text(self._folder.path / NAME, json.dumps(self._told, indent=1) + "\n")

    def _tell(self, name: str, call: Callable[[], None]) -> None:
        """Call a tracker; one that fails hears no more, and the run goes on."""
        try:
            call()
        except ServiceError as error:
            self._trackers.pop(name, None)
            self._observer.noticed(f"{error}; it is told no more, and the run goes on")


_KNOWN = frozenset(key for key, _, _ in documented_keys())


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def _read(folder: RunFolder) -> dict[str, dict[str, int]]:
    path = folder.path / NAME
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
        return {str(name): {kind: int(numbers[kind]) for kind in KINDS} for name, numbers in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ServiceError(f"{path}: damaged; delete it, and trackers are told all rounds again") from None


def _of_round(event: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: float(event[name]) for name in OF_ROUND if event.get(name) is not None}
    return {**numbers, "clinics": float(len(event["answered"]))}


def _of_validation(event: Mapping[str, Any]) -> dict[str, float]:
    return _metrics("validation", metrics_of(histogram_from_lists(event["histogram"])))


def _metrics(part: str, metrics: EvaluationMetrics) -> dict[str, float]:
    values = {name: getattr(metrics, name).value for name in INTERVALS}
    values |= {name: getattr(metrics, name) for name in NUMBERS}
    return {f"{part}/{name}": float(value) for name, value in values.items() if value is not None}
