"""A run's rounds as they come: what its `metrics.jsonl` says, read on from where the last look ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from melfed.common.errors import DataError
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import histogram_from_lists
from melfed.common.page.audit import finite
from melfed.common.page.tail import Row, Tail
from melfed.server.runs.folder import RunFolder

CHUNK = 100
"""Rounds of one part of the page: only the last part changes."""
LOOK_SECONDS = 0.4
"""So long one look may read; of a long run the rest comes with the next looks."""
LISTED_REASONS = 6
INTERVALS = ("auroc", "auprc")


@dataclass
class ClinicRounds:
    """What the rounds tell of one clinic: how often it answered, and the last reasons why it did not."""

    answered: int = 0
    declined: tuple[int, str] | None = None
    failed: tuple[int, str] | None = None
    validation: list[float | None] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**vars(self)}


@dataclass
class RunRounds:
    """The rounds of one run.

    Attributes:
        folder: the run's.
        rows: what is shown of each round, by its number.
        clinics: what the rounds tell of each clinic.
    """

    folder: RunFolder
    rows: dict[int, Row] = field(default_factory=dict)
    clinics: dict[str, ClinicRounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tail = Tail(self.folder.path / "metrics.jsonl")

    def look(self, seconds: float = LOOK_SECONDS) -> bool:
        """Read on, for about so long; tell whether there is more. Raises OSError."""
        if self._tail.began_anew():  # a run that goes on from a checkpoint drops what came after it
            self.rows.clear()
            self.clinics.clear()
        ends = monotonic() + seconds
        for event in self._tail.rows():
            self._take(event)
            if monotonic() >= ends:
                return True
        return False

    def parts(self) -> dict[str, list[Row]]:
        """Return the rounds as parts of the page: `rounds/0` has the first hundred."""
        parts: dict[str, list[Row]] = {}
        for number in sorted(self.rows):
            parts.setdefault(f"rounds/{(max(number, 1) - 1) // CHUNK}", []).append(self.rows[number])
        return parts

    def _take(self, event: Row) -> None:
        number, kind = event.get("round"), event.get("event")
        if type(number) is not int:
            return
        if kind == "round":
            self._row(number).update(_of_round(event))
            self._note_clinics(number, event)
        elif kind == "validation":
            self._row(number).update(_of_validation(event))
            for name, told in _mapping(event.get("clinics")).items():
                self._clinic(name).validation = _interval(_mapping(told).get("auroc"))

    def _row(self, number: int) -> Row:
        return self.rows.setdefault(number, {"round": number})

    def _clinic(self, name: str) -> ClinicRounds:
        return self.clinics.setdefault(str(name), ClinicRounds())

    def _note_clinics(self, number: int, event: Row) -> None:
        for name in event.get("answered", ()):
            self._clinic(name).answered += 1
        for name, reason in _mapping(event.get("declined")).items():
            self._clinic(name).declined = number, str(reason)
        for name, reason in _mapping(event.get("failed")).items():
            self._clinic(name).failed = number, str(reason)


def _of_round(event: Row) -> Row:
    answered, declined, failed = (event.get(name) or () for name in ("answered", "declined", "failed"))
    return {
        "seconds": event.get("seconds"),
        "loss": event.get("train_loss"),
        "answered": len(answered),
        "asked": len(answered) + len(declined) + len(failed),
        "declined": _some(declined),
        "failed": _some(failed),
    }


def _some(reasons: Any) -> dict[str, str]:
    """Return the first reasons, and how many more there are."""
    every = _mapping(reasons)
    listed = {str(name): str(reason) for name, reason in list(every.items())[:LISTED_REASONS]}
    rest = len(every) - len(listed)
    return {**listed, **({"…": f"and {rest} more"} if rest else {})}


def _of_validation(event: Row) -> Row:
    """Return the pooled values with intervals; a run of an older melfed has written the histogram alone."""
    found = event.get("pooled")
    if not isinstance(found, Mapping):
        try:
            found = metrics_of(histogram_from_lists(event["histogram"])).model_dump(mode="json")
        except (KeyError, TypeError, DataError):  # `report` says what is wrong with it
            found = {}
    return {name: _interval(found.get(name)) for name in INTERVALS}


def _interval(found: Any) -> list[float | None] | None:
    interval = _mapping(found)
    value, low, high = (interval.get(name) for name in ("value", "low", "high"))
    return None if value is None else [finite(value), finite(low), finite(high)]


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
