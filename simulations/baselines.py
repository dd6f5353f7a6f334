"""Baselines in one plain training loop, without Flower: all clinics' images pooled, or each clinic on its own.

Each passes as often over the same training images as the federated study, and is judged on the same test parts. With
`federation.stop` each model ends by itself: in `local` mode by its own clinic's validation.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import torch

from melfed.client.data.clinic_data import PARTS, ClinicData, load_part
from melfed.client.data.split import Part
from melfed.client.training.feature_cache import FeatureCache
from melfed.client.training.inputs import Inputs, PixelInputs, scores_of, stored_inputs
from melfed.client.training.plain import Trainer
from melfed.common.data.dataset import Images
from melfed.common.data.origin import is_synthetic
from melfed.common.metrics.histogram import ScoreHistogram, total
from melfed.common.metrics.subgroups import exact_subgroups
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.study.evaluation_noise import noised_attributes
from melfed.common.study.protocol import StudyProtocol, validates
from melfed.common.study.stop import BestRound
from melfed.common.tensors import Tensors
from melfed.server.federation.early_stop import in_words, metric_of
from melfed.server.federation.observer import Observer
from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import ChosenRound, Outcome
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
        folder.forget_after(first - 1, validated=validates(self.study, first - 1))
        observer.started({clinic.name: _counts(clinic) for clinic in self.clinics}, first, rounds)
        for number in range(first, rounds + 1):
            if not self._training():
                break
            self._round(number, folder, observer)
        for learner in self.learners.values():
            learner.choose()
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
        training = self._training()
        names = [clinic.name for learner in training for clinic in learner.clinics]
        observer.round_started(number, names)
        total, images = 0.0, 0
        of_clinics: dict[str, dict[str, float | None]] = {}
        for learner in training:
            loss = learner.train(number, observer)
            total += loss * len(learner.images)
            images += len(learner.images)
            if learner.name:
                of_clinics[learner.name] = {"train_loss": loss, "weight": len(learner.images), "bytes_up": 0}
            for clinic in learner.clinics:
                observer.replied(clinic.name, None)
        self._validate(number, folder, observer)
        seconds = monotonic() - started
        row = {"event": "round", "round": number, "train_loss": total / images, "seconds": seconds}
        folder.append({**row, "bytes_up": 0, "bytes_down": 0, "answered": names, "failed": {}, "clinics": of_clinics})
        save_checkpoint(folder.checkpoints, self._state(number))
        observer.round_finished(number, total / images, seconds)

    def _training(self) -> list["_Learner"]:
        """Return the learners that have not stopped early."""
        return [learner for learner in self.learners.values() if not learner.progress.ends(self.study.federation.stop)]

    def _validate(self, number: int, folder: RunFolder, observer: Observer) -> None:
        """Record how the models after a round do on the validation parts, where the study asks for it.

        A learner that stops by it takes its best round's model at once.
        """
        if not validates(self.study, number):
            return
        learners, training = self.learners.values(), self._training()
        parts = {c.name: learner.evaluate(c, "validation") for learner in learners for c in learner.clinics}
        folder.append_validation(number, total(list(parts.values())), parts)
        for learner in training:
            learner.validated(number, total([parts[clinic.name] for clinic in learner.clinics]))
            if stop := self.study.federation.stop if learner.progress.ends(self.study.federation.stop) else None:
                whose = f"{learner.name}: " if learner.name else ""
                observer.noticed(f"{whose}{in_words(stop, learner.chosen(), self.study.federation.rounds)}")

    def _state(self, number: int) -> Checkpoint:
        """Return all learners' state after a round."""
        models: Tensors = {}
        optimizers: Tensors = {}
        best: Tensors = {}
        stop: dict[str, BestRound] = {}
        for name, learner in self.learners.items():
            models |= _over(_prefix(name), trainable_tensors(learner.model))
            optimizers |= _over(_prefix(name), learner.trainer.optimizer.state())
            best |= _over(_prefix(name), learner.best)
            if self.study.federation.stop is not None:
                stop[name] = learner.progress
        return Checkpoint(number, self.study.digest, models, optimizers, best=best, stop=stop)

    def _restore(self, state: Checkpoint) -> None:
        for name, learner in self.learners.items():
            load_trainable(learner.model, _under(_prefix(name), state.model))
            learner.trainer.optimizer.restore(_under(_prefix(name), state.optimizer))
            learner.best = _under(_prefix(name), state.best)
            learner.progress = state.stop.get(name, BestRound())
            learner.trained = state.round
            if learner.progress.ends(self.study.federation.stop):
                learner.trained = learner.progress.seen

    def _outcome(self) -> Outcome:
        models = {name: trainable_tensors(learner.model) for name, learner in self.learners.items()}
        counts = {clinic.name: _counts(clinic) for clinic in sorted(self.clinics, key=lambda clinic: clinic.name)}
        test = {c.name: learner.evaluate(c, "test") for learner in self.learners.values() for c in learner.clinics}
        everywhere = {}
        if self.study.federation.mode == "local":
            for name, learner in self.learners.items():
                parts = [test[c.name] if c.name == name else learner.evaluate(c, "test") for c in self.clinics]
                everywhere[name] = total(parts)
        subgroups = _pooled_cells([learner.subgroups(c) for learner in self.learners.values() for c in learner.clinics])
        stops = self.study.federation.stop is not None
        chosen = {name: learner.chosen() for name, learner in self.learners.items()} if stops else {}
        validation = None
        if self.study.federation.mode == "central":
            validation = total([self.learners[""].evaluate(clinic, "validation") for clinic in self.clinics])
        told = dict(sorted(test.items()))
        return Outcome(models, counts, told, everywhere, chosen=chosen, validation=validation, subgroups=subgroups)


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
        self.features = FeatureCache(clinics[0].cache / "features")
        self.best: Tensors = {}
        self.progress = BestRound()
        self.trained = 0

    def train(self, number: int, observer: Observer) -> float:
        """Train one round's passes; return the mean loss."""
        clinic = self.name or "all"

        def progress(images: int) -> None:
            observer.watch(lambda: {clinic: images})
            observer.waiting()

        inputs = None if self.study.training.augment else self._stored(self.images)
        loss = self.trainer.train(self.images, clinic, number, progress, inputs).loss
        self.trained = number
        return loss

    def validated(self, number: int, validation: ScoreHistogram) -> None:
        """Take note of how the model after a round does, where the study stops early."""
        if (stop := self.study.federation.stop) is None:
            return
        self.progress = self.progress.after(stop, number, metric_of(stop, validation))
        if self.progress.round == number:
            self.best = trainable_tensors(self.model)
        if self.progress.ends(stop):
            self.choose()

    def choose(self) -> None:
        """Take the best round's model, where the study stops early and a validation was defined."""
        if self.best:
            load_trainable(self.model, self.best)

    def chosen(self) -> ChosenRound:
        """Return which round's model it is."""
        return ChosenRound(self.progress.round or self.trained, self.progress.value, self.trained)

    def evaluate(self, clinic: ClinicData, part: Part) -> ScoreHistogram:
        """Score one clinic's part."""
        images = clinic.load(part)
        return ScoreHistogram.from_scores(self._scores(images), images.targets, images.groups)

    def subgroups(self, clinic: ClinicData) -> dict[str, ScoreHistogram]:
        """Score one clinic's test part by the cells that the study asks for; none where it asks for none."""
        if not (attributes := noised_attributes(self.study)):
            return {}
        images = clinic.load("test")
        return exact_subgroups(images.records, self._scores(images), images.groups, attributes)

    def _scores(self, images: Images) -> npt.NDArray[np.float64]:
        inputs = self._stored(images) or PixelInputs(self.model, images, self.study.data.image_size, None, self.device)
        return scores_of(self.model, inputs, len(images))

    def _stored(self, images: Images) -> Inputs | None:
        """Return stored outputs of the frozen prefix; None where everything learns."""
        return stored_inputs(self.features, self.model, images, self.study, self.device)


def _pooled_cells(clinics: Sequence[Mapping[str, ScoreHistogram]]) -> dict[str, ScoreHistogram]:
    """Return the histograms of all clinics together, by cell."""
    cells = dict.fromkeys(cell for found in clinics for cell in found)
    return {cell: total([found[cell] for found in clinics]) for cell in cells}


def _counts(clinic: ClinicData) -> Counts:
    parts = {part: clinic.load(part).counts() for part in PARTS}
    numbers = {f"{part}_{what}": count for part, counts in parts.items() for what, count in counts.items()}
    return Counts(numbers=numbers, synthetic=is_synthetic(clinic.root))


def _prefix(learner: str) -> str:
    """Return what the names of a learner's tensors start with in a checkpoint; no other learner's do."""
    return f"{quote(learner, safe='')}/"


def _over(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
