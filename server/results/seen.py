"""Statistics of what a run's model has seen, by which a picture is told that is unlike all of it.

`RUN/seen.json` holds those of public images, which somebody has named, or of rendered ones, which a simulation was
trained on. A run of one round has others without that: the moments that its clinics released with noise. All are free:
no patient is looked at.

Loads no torch until statistics are taken: the coordinator's process, which reads them, waits for clinics for days.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import ValidationError

from melfed.common.data.images.decoder import Pixels
from melfed.common.errors import DataError, RunError
from melfed.common.export.out_of_distribution import FALSE_ALARMS, FeatureStatistics, of_moments, of_public
from melfed.common.export.public_images import public_images
from melfed.common.files import write_text
from melfed.common.moments.noisy_moments import pooled
from melfed.common.progress import Progress
from melfed.common.study.protocol import Section
from melfed.common.tensors import load_tensors
from melfed.server.runs.folder import SEEN, RunFolder
from melfed.server.runs.releases import Releases

if TYPE_CHECKING:
    from melfed.common.model.classifier import Classifier

NAME: Final = SEEN
MOST_IMAGES: Final = 3000
"""So many are looked at; the statistics hardly change with more."""
_FEWEST: Final = math.ceil(1 / FALSE_ALARMS - 1)
"""A threshold of this rate takes so many images (`melfed.common.export.out_of_distribution.of_public`)."""
MOST_SHOWN: Final = 384
"""Of a simulation's own rendered ones: those of the demo cost it about a second (4 ms of a core each)."""
_BLOCKS: Final = 30
_HELD_OUT: Final = 3


@dataclass(frozen=True)
class ShownImages:
    """Images of a run that show nobody, as its network sees them, uint8 (size, size, 3): at most `MOST_SHOWN`.

    Attributes:
        learnt: some that the model has learnt from, in the order of their names.
        held_out: some of its validation part.
    """

    learnt: Sequence[Pixels]
    held_out: Sequence[Pixels]


class _File(Section):
    """`network` is the SHA-256 of all tensors before the head: of others, the features are others."""

    network: str
    seen: FeatureStatistics


def seen_of(folder: RunFolder, clinic: str | None = None) -> FeatureStatistics | None:
    """Return the statistics that go with a run's model; None where there are none.

    Args:
        folder: of the run.
        clinic: whose own model, of a run that has such. The statistics are its as well where nothing but its head
            differs from the model of all.

    Raises:
        RunError: `seen.json` is damaged, or of another network than that of the run's one model.
    """
    path = folder.path / NAME
    study = folder.study()
    if clinic is not None and not path.exists():
        return None
    if not path.exists():
        if study.federation.mode != "one_round" or study.model.metadata:
            return None
        released = [release.train for _, release in sorted(Releases(folder.releases, study.digest).kept().items())]
        return of_moments(pooled(released)) if released else None
    try:
        found = _File.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise RunError(f"{path}: damaged; make it anew with melfed-server seen, or delete it") from None
    if clinic is not None:
        return found.seen if found.network == _network(folder.models_of_clinics()[clinic]) else None
    if found.network != _network(folder.model):
        raise RunError(f"{path}: of another network than the run's; make it anew with melfed-server seen, or delete it")
    return found.seen


def write_seen(
    folder: RunFolder,
    model: "Classifier",
    images: Path,
    false_alarms: float = FALSE_ALARMS,
    progress: Progress | None = None,
) -> FeatureStatistics:
    """Write `seen.json` from a folder of public images, and return it.

    Every third of 30 parts of the images, by their names, is held out for the threshold: pictures of one patient, whose
    names follow each other mostly, are not on both sides.

    Args:
        folder: of a finished run.
        model: its.
        images: the folder of public images.
        false_alarms: share of pictures of their kind that may be called unlike.
        progress: called with (done, all) images.

    Raises:
        RunError: the model needs more than a picture.
        DataError: no usable images, or too few.
        StorageError: the file cannot be written.
    """
    if model.metadata is not None:
        raise RunError(f"{folder.path}: its model needs age, sex and site; no picture is scored without a table")
    if not 0 < false_alarms < 1:
        raise DataError(f"--false-alarms {false_alarms:g}: it is a share between 0 and 1")
    from melfed.server.results.features import features_of

    pixels = public_images(images, folder.study().data.image_size, MOST_IMAGES, "take statistics of")
    features = features_of(model, pixels, progress)
    return _write(folder, of_public(features, held_out(len(pixels)), false_alarms))


def write_shown(folder: RunFolder, model: "Classifier", shown: ShownImages) -> FeatureStatistics | None:
    """Write `seen.json` of a run's own images, which show nobody, and return it; None where they are too few for it.

    The model has not learnt from the validation part, so further pictures are to it what these are: they give the
    threshold. Where they are too few for that, some of the others do, as in `write_seen`.

    Args:
        folder: of a finished run.
        model: its.
        shown: the images.

    Raises:
        StorageError: the file cannot be written.
    """
    learnt, others = list(shown.learnt), list(shown.held_out)
    out = [False] * len(learnt) + [True] * len(others)
    if len(others) < _FEWEST:
        others, out = [], held_out(len(learnt))
    if sum(out) < _FEWEST or len(out) - sum(out) < _FEWEST:
        return None
    from melfed.server.results.features import features_of

    features = features_of(model, learnt + others)
    return _write(folder, of_public(features, out)) if np.isfinite(features).all() else None


def _write(folder: RunFolder, seen: FeatureStatistics) -> FeatureStatistics:
    write_text(folder.path / NAME, _File(network=_network(folder.model), seen=seen).model_dump_json(indent=1) + "\n")
    return seen


def held_out(images: int) -> list[bool]:
    """Return which of so many images, in the order of their names, the threshold follows from: every third block of 30.

    >>> held_out(6)
    [False, False, True, False, False, True]
    """
    part = np.arange(images) * min(_BLOCKS, images) // max(images, 1)
    return [bool(out) for out in part % _HELD_OUT == _HELD_OUT - 1]


def _network(model: Path) -> str:
    """Return the SHA-256 of what makes the features of a model's file."""
    tensors, _ = load_tensors(model)
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if not name.startswith(("head.", "metadata.")):
            digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
