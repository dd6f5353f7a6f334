"""Ordinary (non-private) training of a classifier on one clinic's images."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from melfed.client.training.inputs import Inputs, PixelInputs
from melfed.client.training.optimizer import Adjustment, LocalOptimizer
from melfed.common.data.dataset import Images
from melfed.common.errors import StudyError
from melfed.common.model.classifier import Classifier
from melfed.common.model.dropout import seed_dropout
from melfed.common.model.inference import Advance
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import Place, planned_steps, stretch


@dataclass(frozen=True)
class TrainingResult:
    """What a pass over the images gave: mean loss over `images` image visits, in `steps` optimiser steps."""

    loss: float
    images: int
    steps: int


class Trainer:
    """A classifier, its optimiser, and the study's schedule, for one clinic (or one pooled data set)."""

    def __init__(
        self, model: Classifier, study: StudyProtocol, device: torch.device, adjustment: Adjustment | None = None
    ) -> None:
        self.model = model
        self.study = study
        self.device = device
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = LocalOptimizer(learning, study, adjustment)

    def train(
        self,
        images: Images,
        clinic: str,
        round_number: int,
        on_progress: Advance | None = None,
        inputs: Inputs | None = None,
    ) -> TrainingResult:
        """Train one round of the study: `training.local_epochs` passes over the images, or a part of one.

        Args:
            images: what to learn from.
            clinic: names the random streams.
            round_number: 1-based; it places the steps in the run, and so on the learning-rate schedule, and with
                `local_epochs` it says which part of which pass is next.
            on_progress: called with the number of image visits so far.
            inputs: how the network is run on these images; None: on their pixels.

        Raises:
            StudyError: the loss has grown beyond all numbers.
        """
        spec, seed = self.study.training, self.study.seed_of("training")
        generator = torch.Generator().manual_seed(seed_for(seed, "augment", clinic, round_number))
        seed_dropout(self.device, seed_for(seed, "dropout", clinic, round_number))
        visits = round_visits(len(images), spec.local_epochs, round_number, seed, clinic)
        starts = range(0, len(visits), spec.batch_size)
        size = self.study.data.image_size
        run = inputs or PixelInputs(self.model, images, size, generator if spec.augment else None, self.device)
        total, done = 0.0, 0
        before = planned_steps(len(images), spec, round_number - 1)
        self.model.train()
        for step, start in enumerate(starts):
            batch = visits[start : start + spec.batch_size]
            total += self._backward(run, images, batch) * len(batch)
            self.optimizer.step(Place(round_number, step, len(starts), before))
            done += len(batch)
            if on_progress:
                on_progress(done)
        if not math.isfinite(total):
            where = f"clinic {clinic}, round {round_number}"
            raise StudyError(f"{where}: the training loss is not finite; lower training.learning_rate")
        return TrainingResult(total / done, done, len(starts))

    def _backward(self, run: Inputs, images: Images, batch: npt.NDArray[np.int64]) -> float:
        """Leave the gradient of a batch's mean loss in the parameters; returns the loss."""
        self.optimizer.zero_grad()
        weight = torch.tensor(self.study.training.positive_weight, device=self.device)
        total = 0.0
        for start in range(0, len(batch), run.micro_batch):
            part = batch[start : start + run.micro_batch]
            targets = torch.from_numpy(images.targets[part]).to(self.device)
            logits = run.logits(part)
            loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="sum") / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total


def round_visits(images: int, epochs: float, round_number: int, seed: int, clinic: str) -> npt.NDArray[np.int64]:
    """Return the indices of the images that a round visits, in order, shape (visits,); at least one.

    Passes over the images follow each other, each in a random order of its own, and rounds cut them into stretches of
    `epochs` passes: with 0.25, four rounds visit every image once.
    """
    first, last = stretch(images, epochs, round_number)
    passes = [
        np.random.default_rng(seed_for(seed, "order", clinic, number)).permutation(images)
        for number in range(first // images, (last - 1) // images + 1)
    ]
    skipped = first - (first // images) * images
    return np.concatenate(passes)[skipped : skipped + last - first]
