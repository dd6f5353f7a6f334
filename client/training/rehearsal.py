"""How long a round of a study may take on this machine: one step is timed, on synthetic images.

No patient has a part in it. How many images there are is the study's own public guess (`privacy.patients`), and what
is in them is noise, so that the figure tells of the machine alone. What leaves the clinic is coarser still: a power of
two of minutes (`coarse_minutes`).
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from melfed.client.training.feature_cache import FeatureCache
from melfed.client.training.inputs import CachedInputs, Inputs, PixelInputs
from melfed.client.training.plain import Trainer
from melfed.client.training.private import PrivateTrainer
from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import LesionRecord
from melfed.common.model.classifier import Classifier
from melfed.common.model.frozen_prefix import split
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.common.study.step_plan import trainings

SAMPLE = 32
"""Images, of a patient each, in the step that is timed."""
WARM = 4
"""Images that are run before: what a library prepares for its first call is no part of a step."""
MOST_MINUTES = 1 << 14
"""More than the longest deadline of a study, seven days."""


@dataclass(frozen=True)
class Timed:
    """What was timed, seconds an image.

    Attributes:
        row: a view of an image in a step.
        prefix: an image, with all its views, in the frozen part of the network, which runs once a run; 0 where no part
            is frozen.
    """

    row: float
    prefix: float


def guessed_patients(study: StudyProtocol) -> int:
    """Return how many patients a clinic trains on, by the study's public guess, or the default of studies without."""
    return (study.privacy or PrivacySpec(unit="patient", epsilon=1.0)).patients


def round_seconds(study: StudyProtocol, timed: Timed) -> float:
    """Return how long the longest round of a study takes with one image a patient, seconds.

    That is the first: the frozen part runs once over all images, those of validation and test too. Images that are
    scored count as much as those that are trained on, where no part of the network is frozen.
    """
    patients, shares = guessed_patients(study), study.partition.validation + study.partition.test
    everybody = patients / max(1.0 - shares, 0.01)
    prefix = timed.prefix * everybody
    if study.federation.mode == "one_round":
        return prefix
    privacy = study.privacy
    trained = study.training.local_epochs * patients
    if privacy is not None:
        trained = privacy.sampling_rate * patients * privacy.views * privacy.steps
    trained *= trainings(study)
    return prefix + timed.row * (trained + everybody - patients)


def coarse_minutes(seconds: float) -> int:
    """Return the smallest power of two of minutes that is no less, from 1 to `MOST_MINUTES`.

    >>> [coarse_minutes(seconds) for seconds in (0.2, 60.0, 61.0, 500.0)]
    [1, 1, 2, 16]
    """
    return min(1 << max(0, math.ceil(math.log2(max(seconds, 1.0) / 60))), MOST_MINUTES)


def rehearse(study: StudyProtocol, weights_dir: Path | None, device: torch.device) -> Timed:
    """Time one step of a study on synthetic images.

    Args:
        study: with nothing left open.
        weights_dir: where pretrained weights are looked for.
        device: where the clinic trains.

    Raises:
        WeightsError: the weights that the study starts from are not here.
        StudyError: the network has a layer whose private gradients are not known.
        StorageError: the pictures cannot be written to the folder for temporary files.
        torch.OutOfMemoryError: the device has not the memory.
    """
    model = build_study_classifier(study, weights_dir).to(device).to(memory_format=torch.channels_last)
    size = study.data.image_size
    with tempfile.TemporaryDirectory(prefix="melfed-rehearsal-") as name:
        images = _synthetic(Path(name), size)
        inputs, prefix = _inputs(study, model, images, Path(name), device)
        with torch.no_grad():
            inputs.logits(np.arange(WARM))
        row = 0.0 if study.federation.mode == "one_round" else _step(study, model, images, inputs, device)
    return Timed(row, prefix)


def _synthetic(folder: Path, size: int) -> Images:
    """Write noise as pictures, and return them as a worker has a clinic's."""
    random = np.random.default_rng(0)
    data = folder / "data"
    data.mkdir()
    records = []
    for number in range(SAMPLE):
        image = f"{number}.png"
        Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).save(data / image, compress_level=0)
        records.append(LesionRecord(image, number % 2, None, str(number), None, None, None, None, None, "synthetic"))
    store = ImageStore.build(folder / "cache", data, [record.image for record in records], size)
    return Images(tuple(records), store)


def _inputs(
    study: StudyProtocol, model: Classifier, images: Images, folder: Path, device: torch.device
) -> tuple[Inputs, float]:
    """Return what the step is run on, and how long an image takes in the frozen part, seconds."""
    size, privacy = study.data.image_size, study.privacy
    generator = torch.Generator() if study.training.augment else None
    parts = split(model)
    if parts is None or (privacy is None and study.training.augment):
        return PixelInputs(model, images, size, generator, device), 0.0
    views = privacy.views if privacy else 1
    warm = Images(images.records[:WARM], images.store)
    FeatureCache(folder / "warm").features(model, warm, size, device, views=views)
    started = perf_counter()
    features = FeatureCache(folder / "features").features(model, images, size, device, views=views)
    prefix = (perf_counter() - started) / SAMPLE
    if features is None:
        return PixelInputs(model, images, size, generator, device), 0.0
    return CachedInputs(parts, features, images, study.model.metadata, device), prefix


def _step(study: StudyProtocol, model: Classifier, images: Images, inputs: Inputs, device: torch.device) -> float:
    """Return how long a row takes in a step, seconds."""
    privacy = study.privacy
    if privacy is None:
        once = study.with_changes("training", local_epochs=1.0, batch_size=min(SAMPLE, study.training.batch_size))
        started = perf_counter()
        Trainer(model, once, device).train(images, "rehearsal", 1, inputs=inputs)
        return (perf_counter() - started) / SAMPLE
    whole = privacy.model_copy(update={"steps": 1, "sampling_rate": 1.0})
    started = perf_counter()
    PrivateTrainer(model, study, whole, device).train(
        inputs,
        images.targets,
        [str(record.patient_id) for record in images.records],
        expected_units=SAMPLE,
        noise_multiplier=1.0,
        round_number=1,
    )
    return (perf_counter() - started) / (SAMPLE * privacy.views)
