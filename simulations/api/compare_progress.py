"""Draws how a comparison goes, with the time that is left; where stderr is no terminal, prints a line a cell."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from melfed.common.progress import Progress as Report
from melfed.common.terminal.console import errors
from melfed.server.cli.options import Bar
from melfed.server.report.words import duration
from melfed.simulations.comparison.grid import Cell, label
from melfed.simulations.comparison.one_cell import Ran


class CompareProgress:
    """A `melfed.simulations.comparison.comparison.Progresses` on the terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = TextColumn("{task.fields[left]}")
        self._progress = Progress(*columns, left, console=errors, disable=not errors.is_terminal)
        self._task: TaskID | None = None
        self._started, self._cells, self._ended = 0.0, 0, 0
        self._parts: Mapping[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def reading(self) -> Bar:
        """See `melfed.simulations.comparison.comparison.Progresses`."""
        return Bar("decoding images")

    def began(self, cells: Sequence[Cell], finished: int) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""
        self._started, self._cells = monotonic(), len(cells)
        before = f", {finished} had finished before" if finished else ""
        errors.print(f"{len(cells)} cell{'' if len(cells) == 1 else 's'} to run{before}")
        if cells:
            self._progress.start()
            self._task = self._progress.add_task("cells", total=len(cells), left="")

    def storing(self, done: int, prefixes: int) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""
        if self._task is not None:
            self._progress.update(self._task, left=f"frozen prefixes: {done} of {prefixes} stored")

    def progress(self, done: Mapping[str, float]) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""
        self._parts = done
        if self._task is not None:
            self._progress.update(self._task, left=self.left())

    def ended(self, cell: Cell, ran: Ran) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""
        self._ended += 1
        if self._task is not None:
            self._progress.update(self._task, completed=self._ended, left=self.left())
        name = f"cell {self._ended} of {self._cells}: {label(cell.configuration)}, seed {_seeds(cell)}"
        if ran.error:
            errors.print(f"{name}: failed: {ran.error}", style="yellow", markup=False)
        elif not errors.is_terminal:
            left = self.left()
            errors.print(f"{name}: {duration(ran.seconds)}{f'; {left}' if left else ''}", markup=False)

    def told(self, text: str) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""
        errors.print(text, style="yellow", markup=False)

    def left(self) -> str:
        """Return about how long the rest will take, if it goes on as until now; empty before anything is done."""
        done = self._ended + sum(self._parts.values())
        rest = self._cells - done
        if done <= 0 or rest <= 0:
            return ""
        return f"about {duration((monotonic() - self._started) * rest / done)} left"


class Silent:
    """A `melfed.simulations.comparison.comparison.Progresses` that tells nothing."""

    def reading(self) -> AbstractContextManager[Report]:
        """See `melfed.simulations.comparison.comparison.Progresses`."""
        return nullcontext(lambda _done, _of: None)

    def began(self, cells: Sequence[Cell], finished: int) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""

    def storing(self, done: int, prefixes: int) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""

    def progress(self, done: Mapping[str, float]) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""

    def ended(self, cell: Cell, ran: Ran) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""

    def told(self, text: str) -> None:
        """See `melfed.simulations.comparison.running.Watch`."""


def _seeds(cell: Cell) -> str:
    return " ".join(map(str, cell.replicate))
