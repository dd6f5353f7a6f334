"""The clinic's worker: the only part that reads images. It answers three questions and returns nothing else.

describe: how many images there are. train: a new model from a given one. evaluate: histograms of scores.
"""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client.dataset import PARTS, ClinicData, Part
from client.training import Trainer
from common.classifier import Classifier, load_trainable, trainable_tensors
from common.errors import StudyError
from common.image_set import Images
from common.metrics import ScoreHistogram
from common.protocol import StudyProtocol, validates
from common.scoring import Progress, pick_device, score
from common.study_model import build_study_classifier
from common.tensors import Tensors

Received = npt.NDArray[np.generic]  # a tensor from outside, not checked yet


@dataclass(frozen=True)
class Description:
    """What a clinic says of itself before a study starts: `<part>_images`, `<part>_positives`, `<part>_groups`."""

    clinic: str
    digest: str
    counts: dict[str, int]


@dataclass(frozen=True)
class TrainReply:
    """A clinic's answer to one round: its new tensors, and how the model that it was sent did on its validation.

    `validation` is empty where the study does not ask for it after the round before.
    """

    tensors: Tensors
    images: int
    loss: float
    seconds: float
    validation: ScoreHistogram


class ClinicWorker:
    """Trains and evaluates one study on one clinic's images."""

    def __init__(
        self,
        data: ClinicData,
        study: StudyProtocol,
        weights_dir: Path | None = None,
        device: torch.device | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.data = data
        self.study = study
        self.device = device or pick_device()
        self.weights_dir = weights_dir
        self.on_progress = on_progress
        self._images: dict[Part, Images] = {}

    def describe(self) -> Description:
        """Return the clinic's counts."""
        counts = {f"{part}_{what}": n for part in PARTS for what, n in self.images(part).counts().items()}
        return Description(self.data.name, self.study.digest, counts)

    def train(self, tensors: Mapping[str, Received], round_number: int, digest: str) -> TrainReply:
        """Train one round from the global model.

        Args:
            tensors: the global model's trainable tensors.
            round_number: 1-based.
            digest: of the study that the caller means.

        Raises:
            StudyError: another study is meant, or the loss has grown beyond all numbers.
            TensorError: the tensors do not fit the model.
        """
        started = time.perf_counter()
        validation = ScoreHistogram.empty()
        if validates(self.study, round_number - 1):
            validation = self.evaluate(tensors, "validation", digest)
        model = self._model(tensors, digest)
        trainer = Trainer(model, self.study, self.device)
        result = trainer.train(self.images("train"), self.data.name, round_number, self.on_progress)
        learnt = trainable_tensors(model)
        seconds = time.perf_counter() - started
        return TrainReply(learnt, len(self.data.train), result.loss, seconds, validation)

    def evaluate(self, tensors: Mapping[str, Received], part: Part, digest: str) -> ScoreHistogram:
        """Return the histogram of the model's scores on one part. Raises as `train` does."""
        model = self._model(tensors, digest)
        images = self.images(part)
        probabilities = score(model, images, self.study.data.image_size, self.device)
        return ScoreHistogram.from_scores(probabilities, images.targets, images.groups)

    def images(self, part: Part) -> Images:
        """Return one part's images; kept, since the memory map is opened once."""
        if part not in self._images:
            self._images[part] = self.data.load(part)
        return self._images[part]

    def _model(self, tensors: Mapping[str, Received], digest: str) -> Classifier:
        if digest != self.study.digest:
            raise StudyError(f"clinic {self.data.name} holds study {self.study.digest[:12]}, not {digest[:12]}")
        model = shared_classifier(self.study, self.weights_dir, self.device)
        load_trainable(model, tensors)
        return model


@functools.lru_cache(maxsize=1)
def shared_classifier(study: StudyProtocol, weights_dir: Path | None, device: torch.device) -> Classifier:
    """Return the study's classifier, built once a process: its workers load their tensors into it in turn."""
    model = build_study_classifier(study, weights_dir).to(device)
    return model.to(memory_format=torch.channels_last)
