"""What the processes of a comparison share, in its workspace: the cells, the divided data, and how far each cell is."""

import functools
import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.comparison.grid import Cell
from melfed.simulations.partition.virtual_clinics import VirtualClinics

FILE, DIVISIONS, PROGRESS = "comparison.pickle", "divisions", "progress"


@dataclass(frozen=True)
class Job:
    """A comparison's cells, and where they are run.

    Attributes:
        cells: those that are to be run.
        divisions: of each cell, the name of its divided data.
        out: the comparison's folder.
        weights_dir: where pretrained weights are looked for first.
        cpus: cores a cell.
        gpus: GPUs a cell; 0: it computes on the CPU.
    """

    cells: tuple[Cell, ...]
    divisions: tuple[str, ...]
    out: Path
    weights_dir: Path | None
    cpus: float
    gpus: float = 0.0


def division_of(study: StudyProtocol) -> str:
    """Return a name of everything that decides who is in which clinic and part: studies that share it share clinics."""
    decides = {
        "data": study.data.model_dump(mode="json"),
        "partition": study.partition.model_dump(mode="json"),
        "seed": study.seed_of("partition"),
        "unit": study.privacy.unit if study.privacy else None,
        "metadata": study.model.metadata,
        "phantom": study.seed if study.data.phantom else None,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def lay_out(workspace: Path, job: Job, divisions: Mapping[str, VirtualClinics]) -> None:
    """Write into a workspace what its processes will read."""
    for name in (DIVISIONS, PROGRESS):
        (workspace / name).mkdir()
    (workspace / FILE).write_bytes(pickle.dumps(job))
    for name, virtual in divisions.items():
        (workspace / DIVISIONS / name).write_bytes(pickle.dumps(virtual))


@functools.lru_cache(maxsize=1)
def job_of(workspace: Path) -> Job:
    """Return the job of a workspace, which its own command has written (mode 0700)."""
    job: Job = pickle.loads((workspace / FILE).read_bytes())  # noqa: S301
    return job


@functools.lru_cache(maxsize=4)
def division(workspace: Path, name: str) -> VirtualClinics:
    """Return divided data of a workspace; the last few are kept, with their images open."""
    virtual: VirtualClinics = pickle.loads((workspace / DIVISIONS / name).read_bytes())  # noqa: S301
    return virtual


def report_progress(workspace: Path, number: int, done: float) -> None:
    """Leave how much of a cell is done, from 0 to 1."""
    (workspace / PROGRESS / str(number)).write_text(f"{done:.4f}")


def read_progress(workspace: Path, numbers: Sequence[int]) -> dict[int, float]:
    """Return how much of some cells is done, of those that have begun."""
    paths = {number: workspace / PROGRESS / str(number) for number in numbers}
    # A file that is being written is empty for a moment.
    return {number: float(path.read_text() or 0) for number, path in paths.items() if path.exists()}
