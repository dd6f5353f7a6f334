"""What a process of a comparison does: it runs a cell, or stores a frozen prefix's outputs for all that need them."""

import functools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from melfed.client.training.feature_cache import FeatureCache
from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import LesionRecord
from melfed.common.errors import MelfedError
from melfed.common.model.inference import pick_device
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.observer import Silent
from melfed.server.runs.counts import Counts
from melfed.simulations.comparison.grid import cell_folder
from melfed.simulations.comparison.job import Job, division, job_of, report_progress
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import run_study


@dataclass(frozen=True)
class Ran:
    """How a cell ended.

    Attributes:
        seconds: what it took here; with a run that was gone on with, without what came before.
        error: why it failed, in a line; "" where it has finished.
    """

    seconds: float
    error: str = ""


Call = Callable[[Path, int], Ran]


class Following(Silent):
    """An observer of a run that leaves how far it is; whoever compares sees all runs."""

    def __init__(self, workspace: Path, number: int) -> None:
        self._report = functools.partial(report_progress, workspace, number)
        self._rounds = 1

    def started(self, clinics: Mapping[str, Counts], first_round: int, rounds: int) -> None:  # noqa: ARG002
        """See `melfed.server.federation.observer.Observer`."""
        self._rounds = rounds
        self._report((first_round - 1) / (rounds + 1))

    def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:  # noqa: ARG002
        """See `melfed.server.federation.observer.Observer`; the final evaluation counts as a round."""
        self._report(round_number / (self._rounds + 1))


def run_cell(workspace: Path, number: int) -> Ran:
    """Run a cell to its end, or go on with it where it stopped.

    Args:
        workspace: of the comparison.
        number: of the cell among those of its job.
    """
    job = job_of(workspace)
    _compute(job)
    started, cell = monotonic(), job.cells[number]
    folder = cell_folder(job.out, cell)
    if folder.exists() and not (folder / "study.yaml").exists():
        shutil.rmtree(folder)  # killed while it was made
    report_progress(workspace, number, 0.0)
    try:
        run_study(
            cell.study.with_changes("resources", gpus=job.gpus),  # what was set aside for it
            division(workspace, job.divisions[number]),
            folder,
            Following(workspace, number),
            resume=folder.exists(),
            weights_dir=job.weights_dir,
            engine="local",
            choices=cell.choices,
            predictions=True,
            alone=False,
        )
    except MelfedError as error:
        return Ran(monotonic() - started, str(error))
    return Ran(monotonic() - started)


def _compute(job: Job) -> None:
    """Let this process compute with a cell's share of the cores."""
    torch.set_num_threads(max(1, math.floor(job.cpus)))


def store_prefix(workspace: Path, number: int) -> Ran:
    """Run the frozen prefix of a cell's network over the images of its data, so that no cell has to.

    Raises:
        MelfedError: the weights are not there, or the disk is full.
    """
    job, started = job_of(workspace), monotonic()
    _compute(job)
    study, virtual = job.cells[number].study, division(workspace, job.divisions[number])
    device = pick_device(None if job.gpus else "cpu")
    model = build_study_classifier(study, job.weights_dir).to(device).to(memory_format=torch.channels_last)
    cache, size = FeatureCache(virtual.clinics[0].cache / "features"), study.data.image_size
    for records, views in stored_parts(study, virtual):
        cache.features(model, _images(virtual, records), size, device, views=views)
    return Ran(monotonic() - started)


def stored_parts(study: StudyProtocol, virtual: VirtualClinics) -> list[tuple[Sequence[LesionRecord], int]]:
    """Return the images whose features a study looks up, each with the number of views."""
    parts = {
        name: tuple(virtual.records[i] for split in virtual.splits for i in getattr(split, name))
        for name in ("train", "validation", "test")
    }
    if study.privacy is not None and study.privacy.views > 1:
        return [(parts["train"], study.privacy.views), (parts["validation"] + parts["test"], 1)]
    if study.privacy is None and study.training.augment:  # each pass sees other views
        return [(parts["validation"] + parts["test"], 1)]
    return [(parts["train"] + parts["validation"] + parts["test"], 1)]


def _images(virtual: VirtualClinics, records: Sequence[LesionRecord]) -> Images:
    clinic = virtual.clinics[0]
    names = [record.image for record in records]
    store = ImageStore.open(clinic.cache, clinic.root, names, clinic.image_size, clinic.links)
    return Images(tuple(records), store)


def prefix_of(study: StudyProtocol, division_name: str) -> str | None:
    """Return a name that studies share whose frozen prefix and images are the same; None where all of it learns.

    The network itself decides, when its features are looked up, whether there is a prefix worth keeping.
    """
    model = study.model
    if not model.pretrained or model.train not in {"head", "last_block"}:
        return None
    views = study.privacy.views if study.privacy else (0 if study.training.augment else 1)
    cut = "head" if model.train == "head" else "last_block"
    return f"{model.backbone} {model.weights} {model.weights_sha256} {model.neck} {cut} {views} {division_name}"
