"""Baselines in one plain training loop, without Flower: all clinics' images pooled, or each clinic on its own.

Each passes as often over the same training images as the federated study, and is judged on the same test parts.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from urllib.parse import quote

import torch

from melfed.client.data.clinic_data import PARTS, ClinicData, load_part
from melfed.client.data.split import Part
from melfed.client.training.plain import Trainer
from melfed.common.metrics.histogram import ScoreHistogram, total
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.model.inference import score
from melfed.common.study.protocol import StudyProtocol, validates
from melfed.common.tensors import Tensors
from melfed.server.federation.observer import Observer
from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.resumed import find_state
from melfed.simulations.fit_neck import with_neck


@dataclass(frozen=True)
class Baseline:
    """A study's `central` or `local` baseline over its virtual clinics."""

    study: StudyProtocol
    clinics: tuple[ClinicData, ...]
    classifier: Classifier
    device: torch.device

    def train(self, folder: RunFolder, observer: Observer) -> Outcome:
        """Train and evaluate; goes on from the folder's last checkpoint.

        Raises:
            StorageError: a checkpoint cannot be written.
            RunError: the folder's checkpoints are of another study.
            StudyError: the training loss has grown beyond all numbers.
        """
        rounds = self.study.federation.rounds
        state = find_state(folder, self.study.digest, observer.noticed, first=1)
        if state is not None:
            self._restore(state)
        first = state.round + 1 if state else 1
        folder.forget_after(first - 1)
        if state is not None:
            self._validate(state.round, folder)  # which forget_after has dropped
        observer.started({clinic.name: _counts(clinic) for clinic in self.clinics}, first, rounds)
        for number in range(first, rounds + 1):
            self._round(number, folder, observer)
        if self.study.model.neck and self.study.federation.mode == "central":
            learner = self.learners[""]
            learner.model = with_neck(learner.model, learner.images, self.study, self.device)
        observer.evaluating([clinic.name for clinic in self.clinics])
        return self._outcome()

    def finished(self) -> Classifier:
        """Return a network into which the outcome's tensors fit: the one that was given, or with its neck."""
        return self.learners[""].model if self.study.federation.mode == "central" else self.classifier

    @cached_property
    def learners(self) -> dict[str, "_Learner"]:
        """What trains: one learner with all images, or one a clinic, each with its own copy of the classifier."""
        groups: dict[str, Sequence[ClinicData]] = {"": self.clinics}
        if self.study.federation.mode == "local":
            groups = {clinic.name: [clinic] for clinic in self.clinics}
        return {
            name: _Learner(name, self.study, clinics, self.classifier, self.device) for name, clinics in groups.items()
        }

    def _round(self, number: int, folder: RunFolder, observer: Observer) -> None:
        started = monotonic()
        observer.round_started(number, [clinic.name for clinic in self.clinics])
        total, images = 0.0, 0
        of_clinics: dict[str, dict[str, float | None]] = {}
        for learner in self.learners.values():
            loss = learner.train(number, observer)
            total += loss * len(learner.images)
            images += len(learner.images)
            if learner.name:
                of_clinics[learner.name] = {"train_loss": loss, "weight": len(learner.images), "bytes_up": 0}
            for clinic in learner.clinics:
                observer.replied(clinic.name, None)
        self._validate(number, folder)
        seconds, names = monotonic() - started, [clinic.name for clinic in self.clinics]
        row = {"event": "round", "round": number, "train_loss": total / images, "seconds": seconds}
        folder.append({**row, "bytes_up": 0, "bytes_down": 0, "answered": names, "failed": {}, "clinics": of_clinics})
        models, optimizers = self._states()
        save_checkpoint(folder.checkpoints, Checkpoint(number, self.study.digest, models, optimizers))
        observer.round_finished(number, total / images, seconds)

    def _validate(self, number: int, folder: RunFolder) -> None:
        """Record how the models after a round do on the validation parts, where the study asks for it."""
        if not validates(self.study, number):
            return
        learners = self.learners.values()
        parts = {c.name: learner.evaluate(c, "validation") for learner in learners for c in learner.clinics}
        folder.append_validation(number, total(list(parts.values())), parts)

    def _states(self) -> tuple[Tensors, Tensors]:
        models: Tensors = {}
        optimizers: Tensors = {}
        for name, learner in self.learners.items():
            models |= {f"{_prefix(name)}{key}": tensor for key, tensor in trainable_tensors(learner.model).items()}
            optimizers |= {f"{_prefix(name)}{key}": tensor for key, tensor in learner.trainer.optimizer.state().items()}
        return models, optimizers

    def _restore(self, state: Checkpoint) -> None:
        for name, learner in self.learners.items():
            load_trainable(learner.model, _under(_prefix(name), state.model))
            learner.trainer.optimizer.restore(_under(_prefix(name), state.optimizer))

    def _outcome(self) -> Outcome:
        models = {name: trainable_tensors(learner.model) for name, learner in self.learners.items()}
        counts = {clinic.name: _counts(clinic) for clinic in sorted(self.clinics, key=lambda clinic: clinic.name)}
        test = {c.name: learner.evaluate(c, "test") for learner in self.learners.values() for c in learner.clinics}
        everywhere = {}
        if self.study.federation.mode == "local":
            for name, learner in self.learners.items():
                parts = [test[c.name] if c.name == name else learner.evaluate(c, "test") for c in self.clinics]
                everywhere[name] = total(parts)
        return Outcome(models, counts, dict(sorted(test.items())), everywhere)


class _Learner:
    """One model with its images and optimiser, which is kept from round to round."""

    def __init__(
        self,
        name: str,
        study: StudyProtocol,
        clinics: Sequence[ClinicData],
        classifier: Classifier,
        device: torch.device,
    ) -> None:
        self.name, self.study, self.clinics, self.device = name, study, clinics, device
        self.model = copy.deepcopy(classifier).to(device)
        self.trainer = Trainer(self.model, study, device)
        self.images = load_part(clinics, "train")

    def train(self, number: int, observer: Observer) -> float:
        """Train one round's passes; return the mean loss."""
        clinic = self.name or "all"

        def progress(images: int) -> None:
            observer.watch(lambda: {clinic: images})
            observer.waiting()

        return self.trainer.train(self.images, clinic, number, progress).loss

    def evaluate(self, clinic: ClinicData, part: Part) -> ScoreHistogram:
        """Score one clinic's part."""
        images = clinic.load(part)
        scores = score(self.model, images, self.study.data.image_size, self.device)
        return ScoreHistogram.from_scores(scores, images.targets, images.groups)


def _counts(clinic: ClinicData) -> Counts:
    parts = {part: clinic.load(part).counts() for part in PARTS}
    return Counts(numbers={f"{part}_{what}": count for part, counts in parts.items() for what, count in counts.items()})


def _prefix(learner: str) -> str:
    """Return what the names of a learner's tensors start with in a checkpoint; no other learner's do."""
    return f"{quote(learner, safe='')}/"


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
