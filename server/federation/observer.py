"""Whoever wants to know how a run goes: the command line draws progress with it."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from melfed.common.errors import RunError, StorageError
from melfed.server.runs.counts import Counts
from melfed.server.runs.state import change_state

STATE_SECONDS: Final = 0.5
"""Between two writes of what a deployed run waits for."""

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
    """An observer that draws nothing."""

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


class InState(Silent):
    """Of a deployed run: keeps in its `state.json` what is waited for, for whoever follows it.

    Where that cannot be written, on a full disk, nobody sees it, and the run goes on.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = monotonic) -> None:
        """Begin, before any clinic is there; `clock` tells seconds."""
        self._folder, self._clock = folder, clock
        self._what, self._asked, self._answered = "", 0, set[str]()
        self._written, self._at = "", -STATE_SECONDS
        self._tell("waiting for the clinics")

    def round_started(self, round_number: int, clinics: list[str]) -> None:
        """See `Observer`."""
        self._ask(f"round {round_number}", len(clinics))

    def replied(self, clinic: str, error: str | None, declined: bool = False) -> None:  # noqa: ARG002 (said elsewhere)
        """See `Observer`."""
        if error is None:
            self._answered.add(clinic)
        self._tell(self._words())

    def waiting(self) -> None:
        """See `Observer`."""
        self._tell(self._words())

    def evaluating(self, clinics: list[str]) -> None:
        """See `Observer`."""
        self._ask("final evaluation", len(clinics))

    def doing(self, words: str) -> None:
        """Tell what is done now, in one line, where no clinic is waited for."""
        self._at = -STATE_SECONDS
        self._tell(words)

    def _ask(self, what: str, clinics: int) -> None:
        self._what, self._asked, self._answered = what, clinics, set()
        self.doing(self._words())  # another question is told at once

    def _words(self) -> str:
        if not self._what:
            known = len(self._answered)
            return f"{known} clinic{'' if known == 1 else 's'} ready" if known else "waiting for the clinics"
        return f"{self._what}: {len(self._answered)} of {self._asked} have answered"

    def _tell(self, words: str) -> None:
        now = self._clock()
        if words == self._written or now - self._at < STATE_SECONDS:
            return
        self._written, self._at = words, now
        with contextlib.suppress(StorageError, RunError):
            change_state(self._folder, doing=words)
