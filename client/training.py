"""Ordinary (non-private) training of a classifier on one clinic's images."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from common.classifier import Classifier
from common.errors import StudyError
from common.image_set import Images
from common.protocol import StudyProtocol, TrainingSpec
from common.scoring import Progress, logits_of, micro_batches
from common.seeds import seed_for
from common.tensors import Tensors


@dataclass(frozen=True)
class TrainingResult:
    """What a pass over the images gave: mean loss over `images` image visits, in `steps` optimiser steps."""

    loss: float
    images: int
    steps: int


class Trainer:
    """A classifier, its optimiser, and the study's schedule, for one clinic (or one pooled data set)."""

    def __init__(self, model: Classifier, study: StudyProtocol, device: torch.device) -> None:
        self.model = model
        self.study = study
        self.device = device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, study.training)
        self.steps = 0
        self.anchor: list[torch.Tensor] | None = None
        # A baseline has no global model to stay close to.
        if study.federation.algorithm == "fedprox" and study.federation.mode == "federated":
            self.anchor = [p.detach().clone() for p in self.parameters]

    def train(
        self, images: Images, clinic: str, round_number: int, on_progress: Progress | None = None
    ) -> TrainingResult:
        """Train one round of the study: `training.local_epochs` passes over the images, or a part of one.

        Args:
            images: what to learn from.
            clinic: names the random streams.
            round_number: 1-based; with the study's number of rounds it places the steps on the learning-rate schedule,
                and with `local_epochs` it says which part of which pass is next.
            on_progress: called with the number of image visits so far.

        Raises:
            StudyError: the loss has grown beyond all numbers.
        """
        spec, rounds = self.study.training, self.study.federation.rounds
        augmentation = torch.Generator().manual_seed(seed_for(self.study.seed, "augment", clinic, round_number))
        torch.manual_seed(seed_for(self.study.seed, "dropout", clinic, round_number))
        visits = round_visits(len(images), spec.local_epochs, round_number, self.study.seed, clinic)
        starts = range(0, len(visits), spec.batch_size)
        total, done = 0.0, 0
        self.model.train()
        for step, start in enumerate(starts):
            position = (round_number - 1 + (step + 0.5) / len(starts)) / rounds
            # Clinics keep no optimiser between rounds, and Adam's first steps, without a second moment yet, move every
            # weight by the full learning rate: without the warm-up they undo what was learnt.
            warmup = min(1.0, (self.steps + 1) / (spec.warmup_steps + 1))
            self._set_learning_rate(spec.learning_rate * schedule_factor(spec.schedule, position) * warmup)
            batch = visits[start : start + spec.batch_size]
            total += self._step(images, batch, augmentation if spec.augment else None) * len(batch)
            done, self.steps = done + len(batch), self.steps + 1
            if on_progress:
                on_progress(done)
        if not math.isfinite(total):
            where = f"clinic {clinic}, round {round_number}"
            raise StudyError(f"{where}: the training loss is not finite; lower training.learning_rate")
        return TrainingResult(total / done, done, len(starts))

    def optimizer_state(self) -> Tensors:
        """Return the optimiser's state as named tensors, for a checkpoint."""
        state = self.optimizer.state_dict()["state"]
        tensors = {
            f"{index}/{key}": torch.as_tensor(value).detach().cpu().numpy().astype(np.float32)
            for index, entry in state.items()
            for key, value in entry.items()
            if value is not None
        }
        return {**tensors, "steps": np.array([self.steps], np.float32)}

    def restore_optimizer(self, tensors: Tensors) -> None:
        """Put back what `optimizer_state` returned."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name == "steps":
                self.steps = int(tensor[0])
                continue
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = torch.from_numpy(tensor.copy())
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _step(self, images: Images, batch: npt.NDArray[np.int64], generator: torch.Generator | None) -> float:
        """One optimiser step; returns the batch's mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        weight = torch.tensor(self.study.training.positive_weight, device=self.device)
        total = 0.0
        for part in micro_batches(batch, self.study.data.image_size, self.device):
            targets = torch.from_numpy(images.targets[part]).to(self.device)
            logits = logits_of(self.model, images, part, generator, self.device)
            loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="sum") / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if self.anchor is not None:
            for parameter, origin in zip(self.parameters, self.anchor, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - origin, alpha=self.study.federation.proximal_mu)
        if self.study.training.gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.study.training.gradient_norm)
        self.optimizer.step()
        return total

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def round_visits(images: int, epochs: float, round_number: int, seed: int, clinic: str) -> npt.NDArray[np.int64]:
    """Return the indices of the images that a round visits, in order, shape (visits,); at least one.

    Passes over the images follow each other, each in a random order of its own, and rounds cut them into stretches of
    `epochs` passes: with 0.25, four rounds visit every image once.
    """
    first, last = round((round_number - 1) * epochs * images), round(round_number * epochs * images)
    last = max(last, first + 1)
    passes = [
        np.random.default_rng(seed_for(seed, "order", clinic, number)).permutation(images)
        for number in range(first // images, (last - 1) // images + 1)
    ]
    skipped = first - (first // images) * images
    return np.concatenate(passes)[skipped : skipped + last - first]


def schedule_factor(schedule: str, position: float) -> float:
    """Return the fraction of the peak learning rate at a position in [0, 1] of the whole run.

    `one_cycle` rises from 1/25 over the first 30 % and falls to nothing, both on a cosine (Smith & Topin, arXiv
    1708.07120, in the two-phase form that is common now); `cosine` falls from 1 to 0.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * position))
    low, turn = 1 / 25, 0.3
    if position < turn:
        return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * position / turn))
    return 0.5 * (1 + math.cos(math.pi * (position - turn) / (1 - turn)))


def _optimizer(parameters: list[torch.nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    rate, decay = spec.learning_rate, spec.weight_decay
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=spec.momentum)
