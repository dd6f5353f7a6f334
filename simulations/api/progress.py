"""Draws a run's progress on the terminal; where stderr is no terminal, prints a line a round instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from melfed.common.study.recipe import Choice
from melfed.common.terminal.console import errors
from melfed.server.report.privacy_words import shown
from melfed.server.runs.counts import Counts


def print_choices(choices: Sequence[Choice]) -> None:
    """Print what the recipe chose, each with its reason, before anything is trained by it."""
    for choice in choices:
        errors.print(f"recipe: {choice.key} = {shown(choice.value)}: {choice.reason}", markup=False)


class RunProgress:
    """An observer of a run: one bar for all rounds, one for the current round's images."""

    def __init__(self, images: Mapping[str, float]) -> None:
        """Make the observer of a run.

        Args:
            images: how many images each clinic trains on in a round, about; one that is seen twice counts as two. Here
                whoever simulates knows: a private study's clinics do not tell.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self._progress = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=errors, disable=not errors.is_terminal
        )
        self._images = {name: round(number) for name, number in images.items()}
        self._done: set[str] = set()
        self._declined: dict[str, str] = {}
        self._before: dict[str, int] = {}
        self._total = 0
        self._read: Callable[[], dict[str, int]] = dict
        self._rounds = self._progress.add_task("starting", total=None, note="")
        self._round: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, clinics: Mapping[str, Counts], first_round: int, rounds: int) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        self._images = {name: number for name, number in self._images.items() if name in clinics}
        if first_round > 1:
            errors.print(f"going on from round {first_round - 1} of {rounds}")
        self._progress.update(self._rounds, description="rounds", total=rounds, completed=first_round - 1)
        self._round = self._progress.add_task("images", total=sum(self._images.values()), note="")

    def watch(self, progress: Callable[[], dict[str, int]]) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        self._read = progress

    def round_started(self, round_number: int, clinics: list[str]) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        self._done = set()
        # A clinic that has not begun yet still shows where it stood at the end of the round before.
        self._before = dict(self._read())
        self._total = sum(self._images.get(name, 0) for name in clinics)
        if self._round is not None:
            self._progress.reset(self._round, total=self._total, description=f"round {round_number}", note="")

    def replied(self, clinic: str, error: str | None, declined: bool = False) -> None:
        """See `melfed.server.federation.observer.Observer`; a clinic that goes on declining for the same reason is told
        of once."""
        self._done.add(clinic)
        if declined:
            reason = error or "no reason given"
            if self._declined.get(clinic) != reason:
                errors.print(f"clinic {clinic} declines: {reason}", style="cyan", markup=False)
            self._declined[clinic] = reason
        elif error:
            errors.print(f"clinic {clinic}: {error}", style="yellow", markup=False)
        self.waiting()

    def noticed(self, text: str) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        errors.print(text, style="yellow", markup=False)

    def waiting(self) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        if self._round is None or not self._progress.live.is_started:
            return
        reading = self._read()
        self._before = {name: n for name, n in self._before.items() if reading.get(name) == n}
        seen = {name: n for name, n in reading.items() if name not in self._before}
        finished = {name: self._images[name] for name in self._done if name in self._images}
        # The central baseline counts all images under one name, beside the clinics'.
        self._progress.update(self._round, completed=min(self._total, sum({**seen, **finished}.values())))

    def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:
        """See `melfed.server.federation.observer.Observer`."""
        note, told = ("", "") if loss is None else (f"loss {loss:.3f}", f"loss {loss:.4f}, ")
        self._progress.update(self._rounds, completed=round_number, note=note)
        if not errors.is_terminal:
            errors.print(f"round {round_number}: {told}{seconds:.1f} s")

    def evaluating(self, clinics: list[str]) -> None:  # noqa: ARG002 (the bar shows no names)
        """See `melfed.server.federation.observer.Observer`."""
        if self._round is not None:
            self._progress.update(self._round, description="evaluating", total=None)
