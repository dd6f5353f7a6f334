"""Runs the cells of a comparison, as many at a time as there is room for, and goes on where one fails."""

import contextlib
import math
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Protocol

from melfed.common.errors import WeightsError
from melfed.common.files import write_text
from melfed.common.study.build import study_weights
from melfed.common.yaml_file import one_line
from melfed.simulations.comparison.grid import Cell, cell_folder, label
from melfed.simulations.comparison.job import Job, lay_out, read_progress
from melfed.simulations.comparison.one_cell import Call, Ran, prefix_of, run_cell, store_prefix
from melfed.simulations.comparison.starts import score_start, start_scores, starts_of
from melfed.simulations.engine.fork_server import prepare
from melfed.simulations.engine.local_worker import begin
from melfed.simulations.engine.process_pool import ProcessPool
from melfed.simulations.engine.workspace import clear, workspace
from melfed.simulations.partition.virtual_clinics import VirtualClinics

POLL_SECONDS = 0.5
"""So often is the progress drawn while no cell ends."""
FAILURE = "failure.txt"
"""Of a failed cell's folder: what was raised, where it is no error that a user can mend."""

Submit = Callable[[Call, int], "Future[Ran]"]


class Watch(Protocol):
    """Is told how a comparison goes."""

    def began(self, cells: Sequence[Cell], finished: int) -> None:
        """So many cells are to be run, beside those that had finished before."""

    def storing(self, done: int, prefixes: int) -> None:
        """The outputs of so many frozen prefixes are stored, of all."""

    def progress(self, done: Mapping[str, float]) -> None:
        """How much of each cell that has begun is done, by its name."""

    def ended(self, cell: Cell, ran: Ran) -> None:
        """A cell has ended."""

    def told(self, text: str) -> None:
        """Something that should be known."""


@dataclass(frozen=True)
class Machine:
    """Where cells run.

    Attributes:
        cpus: cores a cell.
        gpus: GPUs a cell; more than 0 is Ray's.
        ray_address: of a running cluster.
        weights_dir: where pretrained weights are looked for first.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    ray_address: str | None = None
    weights_dir: Path | None = None

    @property
    def on_ray(self) -> bool:
        """Whether cells are Ray's tasks."""
        return self.ray_address is not None or self.gpus > 0


def without_weights(cells: Sequence[Cell], weights_dir: Path | None) -> dict[str, str]:
    """Return why cells cannot begin whose pretrained weights are not at hand, by the cells' names."""
    known: dict[tuple[object, ...], str] = {}
    missing = {}
    for cell in cells:
        model = cell.study.model
        if not model.pretrained:
            continue
        key = (model.backbone, model.weights, model.weights_sha256)
        if key not in known:
            known[key] = _why_not(cell, weights_dir)
        if known[key]:
            missing[cell.name] = known[key]
    return missing


def _why_not(cell: Cell, weights_dir: Path | None) -> str:
    try:
        study_weights(cell.study, weights_dir)
    except WeightsError as error:
        return str(error)
    return ""


def finished(out: Path, cell: Cell) -> bool:
    """Tell whether a cell's run has finished."""
    return (cell_folder(out, cell) / "summary.json").exists()


def run_cells(
    cells: Sequence[Cell],
    divisions: Mapping[str, tuple[str, VirtualClinics]],
    out: Path,
    machine: Machine,
    watch: Watch,
) -> tuple[dict[str, Ran], int]:
    """Run cells and return how each ended, by its name, and how many ran at a time.

    Args:
        cells: what is to be run; one whose folder is there already goes on.
        divisions: by a cell's name, the name of its divided data, and these.
        out: the comparison's folder.
        machine: where.
        watch: is told how it goes.

    Raises:
        RunError: Ray cannot be reached.
        StorageError: there is no room for the workspace.
    """
    if not cells:
        return {}, 0
    names = tuple(divisions[cell.name][0] for cell in cells)
    job = Job(tuple(cells), names, out.resolve(), machine.weights_dir, machine.cpus, machine.gpus)
    with workspace(out.resolve() if machine.ray_address else None) as place:
        lay_out(place, job, dict(divisions[cell.name] for cell in cells))
        with _tasks(place, machine, watch) as (submit, room):
            _store_prefixes(job, submit, watch)
            results = _run_all(job, place, submit, watch)
            _score_starts(job, submit, watch)
    return results, min(room, len(cells))


@contextlib.contextmanager
def _tasks(place: Path, machine: Machine, watch: Watch) -> Iterator[tuple[Submit, int]]:
    if machine.on_ray:
        from melfed.simulations.comparison.on_ray import ray_tasks

        with ray_tasks(place, machine.ray_address, machine.cpus, machine.gpus) as tasks:
            yield tasks
        return
    context, room = prepare(), slots(machine.cpus, len(os.sched_getaffinity(0)))

    def create() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, begin, (place,))

    with ProcessPool(create, room, lambda number, reason: watch.told(f"cell {number + 1}: {reason}")) as pool:
        yield lambda call, number: pool.submit(number, partial(call, place, number)), room
    clear(Path(tempfile.gettempdir()))  # what the processes had begun, and could not clear when they were ended


def slots(cpus: float, cores: int) -> int:
    """Return how many cells run at a time, each with so many of the CPU cores.

    >>> slots(1.0, 2), slots(0.5, 2), slots(4.0, 2)
    (2, 4, 1)
    """
    return max(1, math.floor(cores / cpus))


def _store_prefixes(job: Job, submit: Submit, watch: Watch) -> None:
    """Have each frozen prefix run once over the images that several cells need it for."""
    users: dict[str, list[int]] = {}
    for number, (cell, name) in enumerate(zip(job.cells, job.divisions, strict=True)):
        if prefix := prefix_of(cell.study, name):
            users.setdefault(prefix, []).append(number)
    shared = [numbers[0] for numbers in users.values() if len(numbers) > 1]
    waiting = {submit(store_prefix, number) for number in shared}
    while waiting:
        watch.storing(len(shared) - len(waiting), len(shared))
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            if error := future.exception():
                # The cells themselves will fail of it, if they must, or do without.
                watch.told(f"a frozen prefix could not be stored: {one_line(f'{type(error).__name__}: {error}')}")


def _score_starts(job: Job, submit: Submit, watch: Watch) -> None:
    """Score the warm starts that cells begin at, where that is not done yet."""
    new = [start for start in starts_of(job.cells, job.weights_dir) if not start_scores(job.out, start).exists()]
    waiting = {submit(score_start, start.number): start for start in new}
    for future in as_completed(waiting):
        if error := future.exception():
            name = label(waiting[future].configuration)
            watch.told(f"{name}: cannot be scored: {one_line(f'{type(error).__name__}: {error}')}")


def _run_all(job: Job, place: Path, submit: Submit, watch: Watch) -> dict[str, Ran]:
    results: dict[str, Ran] = {}
    running = {submit(run_cell, number): number for number in range(len(job.cells))}
    began = monotonic()
    while running:
        done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
        for future in done:
            number = running.pop(future)
            cell = job.cells[number]
            results[cell.name] = _result(future, cell_folder(job.out, cell), monotonic() - began)
            watch.ended(cell, results[cell.name])
        parts = read_progress(place, list(running.values()))
        watch.progress({job.cells[number].name: part for number, part in parts.items()})
    return results


def _result(future: "Future[Ran]", folder: Path, seconds: float) -> Ran:
    """Return how a cell ended; a fault of the program is written down in its folder."""
    error = future.exception()
    if error is None:
        return future.result()
    if folder.exists():
        write_text(folder / FAILURE, "".join(traceback.format_exception(error)))
    return Ran(seconds, one_line(f"{type(error).__name__}: {error}"))
