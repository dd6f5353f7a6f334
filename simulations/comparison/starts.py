"""The start as a baseline: a public warm start that cells begin at, unchanged, on the same test patients."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from melfed.common.errors import StorageError
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import saved_classifier, trainable_tensors
from melfed.common.model.inference import pick_device
from melfed.common.model.weights import run_metadata
from melfed.common.study.build import study_weights
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.simulations.comparison.grid import Cell, Configuration
from melfed.simulations.comparison.job import division, division_of, job_of
from melfed.simulations.comparison.one_cell import Ran
from melfed.simulations.predictions import NAME, write_predictions

NAMES = ("model.backbone", "model.weights", "data.image_size")
"""Keys by which starts differ."""


@dataclass(frozen=True)
class Start:
    """A warm start as it stands beside the cells.

    Attributes:
        name: of its folder.
        number: of a cell that begins at it.
        configuration: what the tables call it.
        replicate: the seeds of that cell, which decide the test patients.
    """

    name: str
    number: int
    configuration: Configuration
    replicate: tuple[object, ...]


def starts_of(cells: Sequence[Cell], weights_dir: Path | None) -> tuple[Start, ...]:
    """Return the warm starts of some cells, one a model and test part. Raises WeightsError."""
    found: dict[str, Start] = {}
    known: dict[tuple[str, str | None, str | None], bool] = {}
    for number, cell in enumerate(cells):
        model = cell.study.model
        file = (model.backbone, model.weights, model.weights_sha256)
        if not model.pretrained or file[1:] == (None, None):
            continue
        if file not in known:
            known[file] = run_metadata(study_weights(cell.study, weights_dir)) is not None
        if known[file]:
            own = tuple((key, value) for key, value in cell.configuration if key in NAMES)
            words = " ".join(map(str, (*file, division_of(cell.study))))
            name = f"start-{hashlib.sha256(words.encode()).hexdigest()[:10]}"
            found.setdefault(name, Start(name, number, (("group", "start"), *own), cell.replicate))
    return tuple(found.values())


def start_scores(out: Path, start: Start) -> Path:
    """Return where a start's scores are written."""
    return out / "starts" / start.name / NAME


def score_start(workspace: Path, number: int) -> Ran:
    """Score the warm start of a cell on that cell's test part, and write its predictions.

    Raises:
        MelfedError: the weights are gone, or the disk is full.
    """
    job, started = job_of(workspace), monotonic()
    for start in (start for start in starts_of(job.cells, job.weights_dir) if start.number == number):
        path = start_scores(job.out, start)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{path.parent}: cannot be made: {error.strerror}; free space and try again") from None
        virtual = division(workspace, job.divisions[number])
        file = study_weights(job.cells[number].study, job.weights_dir)
        tensors = {name: torch.from_numpy(array) for name, array in load_tensors(file.path)[0].items()}
        study = as_trained(job.cells[number].study, tensors)
        model = saved_classifier(study.model, tensors)
        device = pick_device(None if job.gpus else "cpu")
        models = {"": trainable_tensors(model)}
        write_predictions(path, study, virtual.clinics, model, models, device)
    return Ran(monotonic() - started)


def as_trained(study: StudyProtocol, tensors: Mapping[str, torch.Tensor]) -> StudyProtocol:
    """Return a study whose network is that of a run's tensors: with its neck and metadata branch, or without."""
    projection = tensors.get("neck.projection")
    neck = None if projection is None else projection.shape[1]
    metadata = tensors["head.weight"].shape[1] > (neck or backbone_spec(study.model.backbone).features)
    return study.with_changes("model", neck=neck, metadata=metadata, train="head", dropout=None)
