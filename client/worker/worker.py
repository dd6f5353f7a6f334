"""The clinic's worker: the only part that reads images. It answers four questions and returns nothing else.

describe: how many images there are, or in a private study units. train: a new model from a given one. summarise: in a
study of one round, moments of the images' features. evaluate: histograms of scores. In a private study all of it goes
by the clinic's policy and ledger (`melfed.client.worker.guard`), and what leaves is noised, or declared public by the
study or the clinic.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from melfed.client.config.clinic import TellSection
from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import PARTS, ClinicData
from melfed.client.data.split import Part
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noised_moments import SummarisedPart, noised_moments
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.client.privacy.plan import plan_of, privacy_of
from melfed.client.privacy.units import privacy_units
from melfed.client.rpc.api import (
    Description,
    PrivacyAccount,
    Received,
    Scored,
    Summarised,
    TrainReply,
    melfed_version,
)
from melfed.client.training.feature_cache import FeatureCache, computed_features
from melfed.client.training.inputs import CachedInputs, Indices, Inputs, PixelInputs, scores_of
from melfed.client.training.plain import Trainer
from melfed.client.training.private import PrivateTrainer
from melfed.client.worker.disclosure import Telling
from melfed.client.worker.guard import Arrays, Guard, Protection, Request
from melfed.client.worker.unit_counts import UnitCounts, declared, noised
from melfed.common.compression import compressed
from melfed.common.data.dataset import Images
from melfed.common.data.records import LesionRecord
from melfed.common.errors import MelfedError, StudyError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.metrics.score_bins import MOST_BINS
from melfed.common.metrics.score_edges import score_edges
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.model.frozen_prefix import split
from melfed.common.model.inference import Advance, pick_device
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.seeds import seed_for
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol, validates
from melfed.common.tensors import Tensors, group_of, in_group

Evaluated = Literal["validation", "test"]
EVALUATED: tuple[Evaluated, ...] = ("validation", "test")
SUMMARISED_PARTS: tuple[SummarisedPart, ...] = ("train", "validation")


class ClinicWorker:
    """Trains and evaluates one study on one clinic's images."""

    def __init__(
        self,
        data: ClinicData,
        study: StudyProtocol,
        weights_dir: Path | None = None,
        device: torch.device | None = None,
        on_progress: Advance | None = None,
        protection: Protection | None = None,
        tell: TellSection | None = None,
    ) -> None:
        """Make the worker of a clinic's data and a study.

        Args:
            data: the clinic's.
            study: what is trained.
            weights_dir: where pretrained weights are looked for.
            device: None: a GPU where there is one.
            on_progress: called in training with the number of images (rows of images and views) so far.
            protection: ledger and policy; a private study needs them.
            tell: what `describe` says of the policy; None: nothing.

        Raises:
            StudyError: the study is private, and there is no ledger.
        """
        self.data = data
        self.study = study
        self.device = device or pick_device()
        self.weights_dir = weights_dir
        self.on_progress = on_progress
        self.checkpoint: Callable[[], None] | None = None
        """Called at every step and micro-batch: what it raises stops the work."""
        self.tell = tell or TellSection(budget=False, approved=False)
        if study.privacy is not None and protection is None:
            raise StudyError(f"clinic {data.name}: a private study needs a ledger")
        self.guard = Guard(study, protection, data) if protection else None
        self.features = FeatureCache(data.cache / "features")
        self._images: dict[Part, Images] = {}

    @property
    def clinic(self) -> str:
        """The clinic's name."""
        return self.data.name

    def allow(self, policy: ClinicPolicy) -> None:
        """Go by another policy from now on: the clinic may have approved or revoked studies, or changed a limit."""
        if self.guard is not None:
            self.guard.protection = dataclasses.replace(self.guard.protection, policy=policy)

    def told(self, error: MelfedError) -> MelfedError:
        """Return an error as it may leave the clinic."""
        telling = Telling(self.tell.budget, everything=not self.discreet)
        return telling.told(error, private=self.study.privacy is not None)

    def describe(self, run: str = "", counts: bool = True) -> Description:
        """Return the clinic's counts for a run; in a private study noised numbers of units, the same for all the run.

        Args:
            run: identity of the run that is to begin, or goes on; "": only what costs nothing is told, and no counts.
            counts: whether these are asked for; False: only whether the clinic can take part to the run's end, which
                costs nothing.

        Raises:
            DeclinedError: the clinic's policy or budget forbids the study.
            LedgerError: the clinic's ledger cannot be used.
        """
        self._check()
        if run and self.guard is not None:
            self.guard.check_run(run)
        told, noise = self._counts(run) if run and counts else ({}, 0.0)
        return Description(self.data.name, self.study.digest, told, melfed_version(), *self._told(), noise)

    def _counts(self, run: str) -> tuple[dict[str, int], float]:
        """Return what a run is told of how many there are, and the noise on each number."""
        exact = {f"{part}_{what}": n for part in self._public() for what, n in self.images(part).counts().items()}
        if self.study.privacy is None:
            return exact, 0.0
        units = self._unit_counts(run)
        return exact | units.told(), units.noise

    def _public(self) -> tuple[Part, ...]:
        """Return the parts whose images may be counted as they are."""
        privacy = self.study.privacy
        if privacy is None:
            return PARTS
        return () if privacy.evaluation == "noised" else EVALUATED

    def _unit_counts(self, run: str) -> UnitCounts:
        """Return a private study's numbers of units, as this run is told them."""
        assert self.guard is not None  # noqa: S101 (seen to when the worker was made)
        privacy, plan = privacy_of(self.study), plan_of(self.study)
        parts = tuple(part for part in PARTS if part not in self._public())
        if self.tell.units is not None and self.tell.positive_units is not None:
            return declared(self.tell.units, self.tell.positive_units, parts, self.study.partition)
        records: dict[str, Sequence[LesionRecord]] = {part: getattr(self.data, part) for part in parts}
        sigma = plan.counts.noise_multiplier
        values = self.guard.counts(run, lambda: noised(records, privacy.unit, sigma, NoiseSource()))
        return UnitCounts(parts, values, sigma)

    def _told(self) -> tuple[float | None, tuple[str, ...]]:
        """Return the ε that is left, and what is approved, as far as the clinic tells."""
        policy = self.guard.protection.policy if self.guard else None
        if self.guard is None or policy is None:
            return None, ()
        left = self.guard.left() if self.tell.budget else None
        approved = (policy.studies,) if isinstance(policy.studies, str) else policy.studies
        return left, approved if self.tell.approved else ()

    def train(self, tensors: Mapping[str, Received], round_number: int, digest: str, run: str = "") -> TrainReply:
        """Train one round from the global model.

        Args:
            tensors: the global model's trainable tensors.
            round_number: 1-based.
            digest: of the study that the caller means.
            run: identity of the run, for the ledger.

        Raises:
            StudyError: another study is meant, or the loss has grown beyond all numbers.
            TensorError: the tensors do not fit the model.
            DeclinedError: policy or budget forbid it.
            LedgerError: the ledger cannot be used.
        """
        self._check()
        if self.study.federation.mode == "one_round":
            raise StudyError(f"study {self.study.name} is of one round: it asks for moments, and trains nothing here")
        model = self._model(tensors, digest)
        weight = self._weight(run)
        validation = None
        if validates(self.study, round_number - 1):
            request = Request(run, round_number - 1, tensors)
            validation = self._evaluate(model, request, ("validation",))["validation"]
        loss = None
        if self.study.privacy is None:
            learnt, loss = self._learn(model, round_number)
        else:
            learnt = self._learn_privately(model, Request(run, round_number, tensors), weight)
        return TrainReply(self._told_as(learnt, tensors, round_number), weight, loss, validation, self._account())

    def _told_as(self, learnt: Tensors, model: Mapping[str, Received], round_number: int) -> Arrays:
        """Return the clinic's tensors as the study has them travel."""
        kind = self.study.federation.compression
        if kind == "none":
            return learnt
        began = {name: np.asarray(tensor, np.float32) for name, tensor in model.items()}
        seed = seed_for(self.study.seed_of("training"), "compression", self.data.name, round_number)
        return compressed(learnt, began, kind, seed)

    def _weight(self, run: str) -> int:
        """Return the clinic's weight in the mean, at least 1: training images, or units as the run is told them."""
        if self.study.privacy is None:
            return len(self.images("train"))
        return max(self._unit_counts(run).units("train"), 1)

    def summarise(self, digest: str, run: str = "") -> Summarised:
        """Return the noised moments of the features of training and validation part: once a run, and those for ever.

        Raises:
            StudyError: another study is meant, or one that trains in rounds.
            DeclinedError, LedgerError: as `train`.
        """
        self._check()
        if self.study.federation.mode != "one_round":
            raise StudyError(f"study {self.study.name} trains in rounds: it asks for no moments")
        assert self.guard is not None  # noqa: S101 (such a study is private)
        model, plan = self._same(digest), plan_of(self.study)

        def compute() -> Arrays:
            assert plan.moments is not None  # noqa: S101 (it is of one round)
            features = {part: self._features(model, part) for part in SUMMARISED_PARTS}
            parts = {part: (features[part], self.images(part).targets, self._units(part)) for part in SUMMARISED_PARTS}
            noised = noised_moments(parts, plan.moments.noise_multiplier, NoiseSource())
            return {name: a for part, m in noised.items() for name, a in in_group(part, m.to_arrays()).items()}

        arrays = self.guard.pay("moments", Request(run, 1, {}), compute)
        return {part: NoisyMoments.from_arrays(group_of(part, arrays)) for part in SUMMARISED_PARTS}

    def _features(self, model: Classifier, part: Part) -> npt.NDArray[np.float32]:
        """Return what the head sees of each image, shape (n, neck)."""
        # Also where there is no image: work that is called off ends without any patient too.
        self._step()
        images, size = self.images(part), self.study.data.image_size
        if not len(images):
            return np.zeros((0, self.study.model.neck or 0), np.float32)
        stored = self.features.features(model, images, size, self.device, on_progress=lambda _done, _all: self._step())
        return computed_features(model, images, size, self.device) if stored is None else stored[:, 0]

    def evaluate(self, tensors: Mapping[str, Received], digest: str, run: str = "") -> Scored:
        """Return the histograms of the model's scores on validation and test part. Raises as `train` does."""
        self._check()
        model = self._model(tensors, digest)
        return self._evaluate(model, Request(run, self.study.federation.rounds, tensors), EVALUATED)

    def account(self) -> PrivacyAccount | None:
        """Return what the ledger says; None without privacy. Raises LedgerError."""
        return self._account()

    def left(self) -> float | None:
        """Return the ε that the policy leaves to this clinic's data; None without privacy or policy."""
        return None if self.guard is None or self.study.privacy is None else self.guard.left()

    @property
    def discreet(self) -> bool:
        """Whether reasons why something failed stay here: they can hold counts, names and paths of the clinic.

        A clinic without a policy is a simulated one, whose user must be told.
        """
        return self.guard is not None and self.guard.protection.policy is not None

    def images(self, part: Part) -> Images:
        """Return one part's images; kept, since the memory map is opened once."""
        if part not in self._images:
            self._images[part] = self.data.load(part)
        return self._images[part]

    def _check(self) -> None:
        """Raise where the clinic does not take part."""
        self._step()
        if self.guard is not None:
            model = shared_classifier(self.study, self.weights_dir, self.device)
            self.guard.check([name for name, p in model.named_parameters() if p.requires_grad])

    def _units(self, part: Part) -> list[str]:
        return privacy_units(self.images(part).records, privacy_of(self.study).unit)

    def _learn(self, model: Classifier, round_number: int) -> tuple[Tensors, float]:
        inputs = None if self.study.training.augment else self._cached(model, "train", 1)
        trainer = Trainer(model, self.study, self.device)
        result = trainer.train(self.images("train"), self.data.name, round_number, self._progress, inputs)
        return trainable_tensors(model), result.loss

    def _learn_privately(self, model: Classifier, request: Request, expected_units: int) -> Tensors:
        assert self.guard is not None  # noqa: S101 (seen to when the worker was made)
        privacy, plan = privacy_of(self.study), plan_of(self.study)

        def compute() -> Arrays:
            images, units = self.images("train"), self._units("train")
            PrivateTrainer(model, self.study, privacy, self.device).train(
                self._cached(model, "train", privacy.views) or self._pixels(model),
                images.targets,
                units,
                expected_units=expected_units,
                noise_multiplier=plan.training.noise_multiplier,
                round_number=request.round,
                on_progress=self._progress,
            )
            return trainable_tensors(model)

        learnt = self.guard.pay("training", request, compute)
        return {name: np.asarray(tensor, np.float32) for name, tensor in learnt.items()}

    def _pixels(self, model: Classifier) -> Inputs:
        generator = None
        if self.study.training.augment:
            # By a known seed, one patient more would change the others' views, and so the sum by more than C.
            generator = torch.Generator()
            generator.seed()
        return PixelInputs(model, self.images("train"), self.study.data.image_size, generator, self.device)

    def _cached(self, model: Classifier, part: Part, views: int) -> Inputs | None:
        """Return stored outputs of the frozen prefix; None where everything learns."""
        parts = split(model)
        if parts is None:
            return None
        images = self.images(part)
        size = self.study.data.image_size
        features = self.features.features(
            model, images, size, self.device, views=views, on_progress=lambda _done, _all: self._step()
        )
        if features is None:
            return None
        return CachedInputs(parts, features, images, self.study.model.metadata, self.device)

    def _evaluate(self, model: Classifier, request: Request, parts: tuple[Evaluated, ...]) -> Scored:
        """Return histograms of scores as the study lets them leave."""
        privacy = self.study.privacy
        if privacy is None or privacy.evaluation == "public":
            return {part: self._exact(model, part) for part in parts}
        assert self.guard is not None  # noqa: S101 (seen to when the worker was made)
        plan, edges = plan_of(self.study), score_edges(request.tensors, self.study.model.neck)

        def compute() -> Arrays:
            assert plan.evaluation is not None  # noqa: S101 (its evaluation is noised)
            # What is no number counts as undecided: to fail on it would tell something about a patient, without noise.
            scores = {part: np.nan_to_num(self._scores(model, part), nan=0.0) for part in parts}
            scored = {part: (scores[part], self.images(part).targets, self._units(part)) for part in parts}
            noised = noised_histograms(scored, plan.evaluation.noise_multiplier, NoiseSource(), edges)
            return {k: a for part, h in noised.items() for k, a in in_group(part, h.to_arrays()).items()}

        arrays = self.guard.pay("evaluation", request, compute)
        return {part: NoisyHistogram.from_arrays(group_of(part, arrays)) for part in parts}

    def _exact(self, model: Classifier, part: Part) -> ScoreHistogram:
        images, policy = self.images(part), self.guard.protection.policy if self.guard else None
        most = policy.score_bins if policy else MOST_BINS
        return ScoreHistogram.from_scores(self._scores(model, part), images.targets, images.groups, most)

    def _scores(self, model: Classifier, part: Part) -> npt.NDArray[np.float64]:
        # Also where there is no image: work that is called off ends without any patient too.
        self._step()
        images, size = self.images(part), self.study.data.image_size
        inputs = self._cached(model, part, 1) or PixelInputs(model, images, size, None, self.device)
        noised = self.study.privacy is not None and self.study.privacy.evaluation == "noised"
        return scores_of(model, _Watched(inputs, self._step), len(images), one_shape=noised)

    def _progress(self, images: int) -> None:
        self._step()
        if self.on_progress:
            self.on_progress(images)

    def _step(self) -> None:
        if self.checkpoint:
            self.checkpoint()

    def _account(self) -> PrivacyAccount | None:
        if self.guard is None or self.study.privacy is None:
            return None
        plan, (spent, head) = plan_of(self.study), self.guard.account()
        evaluation = plan.evaluation.noise_multiplier if plan.evaluation else None
        return PrivacyAccount(spent, head, plan.training.noise_multiplier, evaluation)

    def _model(self, tensors: Mapping[str, Received], digest: str) -> Classifier:
        model = self._same(digest)
        load_trainable(model, tensors)
        return model

    def _same(self, digest: str) -> Classifier:
        """Return the study's network, with whatever it was last given. Raises StudyError where another is meant."""
        if digest != self.study.digest:
            raise StudyError(f"clinic {self.data.name} holds study {self.study.digest[:12]}, not {digest[:12]}")
        return shared_classifier(self.study, self.weights_dir, self.device)


class _Watched:
    """Inputs that look before each micro-batch whether the work goes on."""

    def __init__(self, inputs: Inputs, step: Callable[[], None]) -> None:
        self.inputs, self.step = inputs, step
        self.micro_batch, self.views = inputs.micro_batch, inputs.views

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:
        """Return logits, shape (k,)."""
        self.step()
        return self.inputs.logits(images, views)


@functools.lru_cache(maxsize=2)
def shared_classifier(study: StudyProtocol, weights_dir: Path | None, device: torch.device) -> Classifier:
    """Return the study's classifier, built once a process: its workers load their tensors into it in turn.

    Two are kept: a clinic can be in two studies at a time.
    """
    model = build_study_classifier(study, weights_dir).to(device)
    return model.to(memory_format=torch.channels_last)
