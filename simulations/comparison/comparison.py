"""A whole comparison: from its file to its folder with results, all its cells run between."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Protocol

from melfed.common.data.images.store import default_cache
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import CellsError, RunError, StorageError, StudyError
from melfed.common.files import write_text
from melfed.common.locks import only_one
from melfed.common.progress import Progress
from melfed.simulations.comparison.costs import Costs, Shape, costs_of, shape_of
from melfed.simulations.comparison.finding import Finding, Timing
from melfed.simulations.comparison.grid import MOST_CELLS, Cell, cells_of
from melfed.simulations.comparison.job import division_of
from melfed.simulations.comparison.pairs import compare_all, rank_all
from melfed.simulations.comparison.report.page import write_page
from melfed.simulations.comparison.report.pairs_table import write_pairs
from melfed.simulations.comparison.report.pdf import write_pdf
from melfed.simulations.comparison.report.sources_table import write_sources
from melfed.simulations.comparison.results import Result, result_of, row, start_result, with_sources, write_rows
from melfed.simulations.comparison.running import Machine, Watch, finished, run_cells, without_weights
from melfed.simulations.comparison.spec import ComparisonFile, read_comparison
from melfed.simulations.comparison.starts import starts_of
from melfed.simulations.comparison.statistics.centres import centres_of
from melfed.simulations.engine.engine import gpus_of
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide, phantom_folder

FILE, LOCK = "comparison.yaml", "comparison.lock"
Divided = Mapping[str, tuple[str, VirtualClinics]]


class Progresses(Watch, Protocol):
    """Is told how a comparison goes, from reading its images on."""

    def reading(self) -> AbstractContextManager[Progress]:
        """Return what gives, for as long as images are read, what is called with (decoded, all) of them."""


@dataclass(frozen=True)
class Request:
    """What is asked of a comparison.

    Attributes:
        file: of the comparison.
        data: the folder of images; None: the study renders its own.
        out: the comparison's folder.
        resume: go on with a folder that is there.
        most: cells at the most.
        overrides: `key.path=value` items that change the study of all cells.
        ray_address: of a running Ray cluster.
        weights_dir: where pretrained weights are looked for first.
        cache: where decoded images and stored features are kept.
        options: what a person says about the data folder.
    """

    file: Path
    data: Path | None
    out: Path
    resume: bool = False
    most: int = MOST_CELLS
    overrides: Sequence[str] = ()
    ray_address: str | None = None
    weights_dir: Path | None = None
    cache: Path | None = None
    options: ReadOptions = field(default_factory=ReadOptions)


def compare(request: Request, watch: Progresses) -> Finding:
    """Run a comparison and write its folder.

    Raises:
        StudyError: the grid cannot be, in one line, before anything is trained.
        RunError: the folder exists already, or with `resume` is of another comparison.
        DataError: the images cannot be used.
        StorageError: something cannot be written.
    """
    began = monotonic()
    file = read_comparison(request.file)
    cells = cells_of(file, request.overrides, request.most)
    machine = _machine(cells, request)
    with watch.reading() as progress:
        divided = _divide(cells, request, progress)
    out = _folder(request, file)
    with only_one(out / LOCK, "the comparison is run"):
        missing = without_weights(cells, request.weights_dir)
        done = {cell.name for cell in cells if finished(out, cell)}
        todo = [cell for cell in cells if cell.name not in missing and cell.name not in done]
        watch.began(todo, len(done))
        ran, room = run_cells(todo, divided, out, machine, watch)
        failures = {name: each.error for name, each in ran.items() if each.error}
        results = _results(out, cells, failures, missing, divided, request.weights_dir)
        keys = tuple(dict.fromkeys(key for cell in cells for key in cell.settings))
        write_rows(out, [row(result, keys) for result in results], keys)
        compared, ranking = compare_all(results), rank_all(results)
        spent = sum(each.seconds for each in ran.values())
        timing = Timing(monotonic() - began, spent, room, len(ran))
        given = divided[cells[0].name][1]
        centres = centres_of(file.comparison, given.records)
        found = Finding(file.comparison, keys, results, compared, ranking, given.summary(), timing, centres)
        write_pairs(out, found)
        write_sources(out, found)
        write_page(out, found)
        write_pdf(out, found)
    return found


def check(found: Finding, out: Path) -> None:
    """Raise CellsError where cells have no result."""
    if failed := found.failed:
        first = failed[0]
        raise CellsError(
            f"{out}: {len(failed)} of {len(found.results)} cells have no result, for example {first.name} "
            f"({first.reason}); mend that, and go on with --out {out} --resume",
            len(failed),
        )


def _machine(cells: Sequence[Cell], request: Request) -> Machine:
    cpus = max(cell.study.resources.cpus for cell in cells)
    gpus = max(gpus_of(cell.study, len(cells), request.ray_address) for cell in cells)
    return Machine(cpus, gpus, request.ray_address, request.weights_dir)


def _divide(cells: Sequence[Cell], request: Request, progress: Progress) -> Divided:
    """Return each cell's divided data; cells share what they may."""
    known: dict[str, VirtualClinics] = {}
    cache = request.cache or default_cache()
    for cell in cells:
        name = division_of(cell.study)
        if name not in known:
            known[name] = divide(cell.study, _data(cell, request, cache), cache, progress, request.options)
    return {cell.name: (division_of(cell.study), known[division_of(cell.study)]) for cell in cells}


def _data(cell: Cell, request: Request, cache: Path) -> Path:
    phantom = cell.study.data.phantom
    if request.data is None:
        if phantom is None:
            raise StudyError(f"{request.file}: its study needs images: add --data DIR")
        return phantom_folder(cell.study, phantom, cache)
    if phantom is not None:
        raise StudyError(f"{request.file}: its study renders its own images; leave out --data")
    return request.data


def _folder(request: Request, file: ComparisonFile) -> Path:
    """Make the comparison's folder, or go on with the one that is there."""
    out, text = request.out, request.file.read_text(encoding="utf-8")
    if request.resume:
        if not (out / FILE).is_file():
            raise RunError(f"{out}: no comparison to resume (it has no {FILE}); leave out --resume")
    elif out.exists():
        raise RunError(f"{out}: exists; choose another --out, or go on with --resume")
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True, mode=0o700)
        if isinstance(file.comparison.study, str):
            shutil.copyfile(request.file.parent / file.comparison.study, out / "study.yaml")
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}; free space and try again") from None
    write_text(out / FILE, text)
    return out


def _results(
    out: Path,
    cells: Sequence[Cell],
    failures: Mapping[str, str],
    missing: Mapping[str, str],
    divided: Divided,
    weights_dir: Path | None,
) -> tuple[Result, ...]:
    costs: dict[Shape, Costs] = {}
    for cell in cells:
        if shape_of(cell.study) not in costs:
            costs[shape_of(cell.study)] = costs_of(cell.study)
    found = [
        result_of(out, cell, failures.get(cell.name), missing.get(cell.name), costs[shape_of(cell.study)])
        for cell in cells
    ]
    with_weights = [cell for cell in cells if cell.name not in missing]
    starts = starts_of(with_weights, weights_dir)
    begun = [start_result(out, start, costs[shape_of(with_weights[start.number].study)]) for start in starts]
    given = [*cells, *(with_weights[start.number] for start in starts)]
    return tuple(
        with_sources(result, divided[cell.name][1].records)
        for result, cell in zip((*found, *begun), given, strict=True)
        if result is not None
    )
