"""Whoever wants to know how a run goes: the command line draws progress with it."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from melfed.server.runs.counts import Counts

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told of each step of a run."""

    def started(self, clinics: Mapping[str, Counts], first_round: int, rounds: int) -> None:
        """The clinics are known; the first round to be trained is more than 1 after a resume."""

    def watch(self, progress: Callable[[], dict[str, int]]) -> None:
        """Receive a function that tells how many images each clinic has trained on in the current round."""

    def round_started(self, round_number: int, clinics: list[str]) -> None:
        """A round begins."""

    def replied(self, clinic: str, error: str | None, declined: bool = False) -> None:
        """A clinic answered, or did not: `error` says why, and `declined` that its own policy forbids it."""

    def noticed(self, text: str) -> None:
        """Something is to be known that stops nothing, in one line; called from any thread."""

    def waiting(self) -> None:
        """Called many times a second while the run waits."""

    def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:
        """A round is aggregated and checkpointed; in a private study there is no loss to tell."""

    def evaluating(self, clinics: list[str]) -> None:
        """The final model is about to be evaluated."""


class Silent:
    """An observer that draws nothing: of a deployed run, `state.json` and the audit log tell."""

    def started(self, clinics: Mapping[str, Counts], first_round: int, rounds: int) -> None:
        """See `Observer`."""

    def watch(self, progress: Callable[[], dict[str, int]]) -> None:
        """See `Observer`."""

    def round_started(self, round_number: int, clinics: list[str]) -> None:
        """See `Observer`."""

    def replied(self, clinic: str, error: str | None, declined: bool = False) -> None:
        """See `Observer`."""

    def noticed(self, text: str) -> None:
        """See `Observer`; the process's own log has it."""
        _log.warning("%s", text)

    def waiting(self) -> None:
        """See `Observer`."""

    def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:
        """See `Observer`."""

    def evaluating(self, clinics: list[str]) -> None:
        """See `Observer`."""
