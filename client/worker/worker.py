"""The clinic's worker: the only part that reads images. It answers four questions and returns nothing else.

describe: how many images there are, or in a private study units. train: a new model from a given one. summarise: where
a head is solved, moments of the images' features. evaluate: histograms of scores. In a private study all of it goes by
the clinic's policy and ledger (`melfed.client.worker.guard`), and what leaves is noised, or declared public by the
study or the clinic.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from melfed.client.approval.run_budget import terms_of
from melfed.client.config.clinic import TellSection
from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import PARTS, ClinicData
from melfed.client.data.split import Part
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noised_moments import SummarisedPart, noised_moments
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
from melfed.client.training.inputs import Inputs, PixelInputs, Watched, scores_of, stored_inputs
from melfed.client.training.kept_state import KeptState, require_state
from melfed.client.training.local_round import LocalRound, told_as
from melfed.client.training.optimizer import Adjustment
from melfed.client.training.plain import Trainer
from melfed.client.training.private import PrivateTrainer
from melfed.client.worker.disclosure import Telling
from melfed.client.worker.evaluation import EVALUATED, Evaluation, has_noise
from melfed.client.worker.guard import Arrays, Guard, Protection, Request
from melfed.client.worker.unit_counts import UnitCounts, declared, noised
from melfed.common.algorithms import algorithm_of
from melfed.common.algorithms.algorithm import Begun
from melfed.common.data.dataset import Images
from melfed.common.data.origin import is_synthetic
from melfed.common.data.records import LesionRecord
from melfed.common.errors import MelfedError, StudyError
from melfed.common.model.classifier import Classifier, load_trainable
from melfed.common.model.inference import Advance, pick_device
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.study.build import alone_start, build_study_classifier, local_start, shared_tensors
from melfed.common.study.protocol import StudyProtocol, validates
from melfed.common.study.step_plan import rate_sum
from melfed.common.tensors import Tensors, group_of, in_group

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
        states: Path | None = None,
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
            states: where is kept what some algorithms keep from round to round; None: such studies are refused.

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
        self.tell = tell or TellSection(budget=False, approved=False, round_time=False)
        if study.privacy is not None and protection is None:
            raise StudyError(f"clinic {data.name}: a private study needs a ledger")
        self.guard = Guard(study, protection, data) if protection else None
        self.features = FeatureCache(data.cache / "features")
        self.states = KeptState(states, study.digest) if states else None
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
        left, approved, minutes = self._told()
        about = (melfed_version(), left, approved, noise, is_synthetic(self.data.root), minutes)
        return Description(self.data.name, self.study.digest, told, *about)

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

    def _told(self) -> tuple[float | None, tuple[str, ...], int | None]:
        """Return the ε that is left, what is approved, and a round's minutes, as far as the clinic tells."""
        policy = self.guard.protection.policy if self.guard else None
        if self.guard is None or policy is None:
            return None, (), None
        left = self.guard.left() if self.tell.budget else None
        approved = (policy.studies,) if isinstance(policy.studies, str) else policy.studies
        minutes = terms_of(policy, self.study.digest).round_minutes if self.tell.round_time else None
        return left, approved if self.tell.approved else (), minutes

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
        local = self._local(digest)
        begun = local.begun(tensors, self._kept(run, round_number))
        load_trainable(local.model, local.judged(begun))
        weight = self._weight(run)
        validation = None
        if validates(self.study, round_number - 1):
            request = Request(run, round_number - 1, tensors)
            scores = functools.partial(self._scores, local.model)
            validation = self._leaving().histograms(scores, request, ("validation",))["validation"]
        loss = None
        if self.study.privacy is None:
            learnt, loss = local.learn(begun, lambda adjustment: self._learn(local.model, round_number, adjustment))
        else:
            learnt = self._learn_privately(local, begun, Request(run, round_number, tensors), weight)
        if local.keeps:
            kept = local.kept(begun, learnt, rate_sum(self.study, weight, round_number))
            require_state(self.states, self.study).keep(run, round_number, kept)
        sent = told_as(self.study, self.data.name, local.sent(begun, learnt), begun.model, round_number)
        return TrainReply(sent, weight, loss, validation, self._account())

    def _local(self, digest: str) -> LocalRound:
        """Return the clinic's part of rounds. Raises StudyError where another study is meant."""
        starts = (start(self.study, self.weights_dir) for start in (local_start, alone_start))
        return LocalRound(self.study, self._same(digest), *starts)

    def _kept(self, run: str, round_number: int) -> Tensors:
        """Return what the clinic kept for a round."""
        if not algorithm_of(self.study.federation.algorithm).keeps and not self.study.evaluation.local_baseline:
            return {}
        return require_state(self.states, self.study).before(run, round_number)

    def _weight(self, run: str) -> int:
        """Return the clinic's weight in the mean, at least 1: training images, or units as the run is told them."""
        if self.study.privacy is None:
            return len(self.images("train"))
        return max(self._unit_counts(run).units("train"), 1)

    def summarise(self, digest: str, run: str = "") -> Summarised:
        """Return the noised moments of the features of training and validation part: once a run, and those for ever.

        Raises:
            StudyError: another study is meant, or one that asks for no moments.
            DeclinedError, LedgerError: as `train`.
        """
        self._check()
        if not self.study.federation.asks_for_moments:
            raise StudyError(f"study {self.study.name} trains in rounds: it asks for no moments")
        assert self.guard is not None  # noqa: S101 (such a study is private)
        model, plan = self._same(digest), plan_of(self.study)

        def compute() -> Arrays:
            assert plan.moments is not None  # noqa: S101 (it asks for moments)
            features = {part: self._features(model, part) for part in SUMMARISED_PARTS}
            parts = {part: (features[part], self.images(part).targets, self._units(part)) for part in SUMMARISED_PARTS}
            noised = noised_moments(parts, plan.moments.noise_multiplier, NoiseSource())
            return {name: a for part, m in noised.items() for name, a in in_group(part, m.to_arrays()).items()}

        arrays = self.guard.pay("moments", Request(run, 1, {}), compute)
        return {part: NoisyMoments.from_arrays(group_of(part, arrays)) for part in SUMMARISED_PARTS}

    def _features(self, model: Classifier, part: Part) -> npt.NDArray[np.float32]:
        """Return what the head sees of each image, shape (n, features): the neck's, and after them the metadata's."""
        # Also where there is no image: work that is called off ends without any patient too.
        self._step()
        images, size = self.images(part), self.study.data.image_size
        if not len(images):
            return np.zeros((0, self.study.head_features), np.float32)
        stored = self.features.features(model, images, size, self.device, on_progress=lambda _done, _all: self._step())
        found = computed_features(model, images, size, self.device) if stored is None else stored[:, 0]
        if model.metadata is None:
            return found
        with torch.inference_mode():
            encoded = model.metadata(torch.from_numpy(images.metadata).to(self.device)).cpu().numpy()
        return np.concatenate([found, encoded], axis=1)

    def evaluate(self, tensors: Mapping[str, Received], digest: str, run: str = "", round_number: int = 0) -> Scored:
        """Return the histograms of the model's scores on validation and test part.

        Args:
            tensors: the model's trainable tensors.
            digest: of the study that the caller means.
            run: identity of the run, for the ledger.
            round_number: one after the last round is the second final evaluation of a study that stops early; up to
                that it is the first.

        Raises:
            StudyError: there is no such evaluation; and as `train` does.
        """
        self._check()
        local = self._local(digest)
        last, again = self.study.federation.rounds, self.study.federation.stop is not None
        number = max(round_number, last)
        if number > last + again:
            raise StudyError(f"study {self.study.name} has no evaluation after round {number}")
        begun = local.begun(tensors, self._kept(run, number + 1), trains=False)
        load_trainable(local.model, local.judged(begun))
        # Once a part, whatever asks for them; and not before something was paid for.
        scores = functools.cache(functools.partial(self._scores, local.model))
        request = Request(run, number, tensors)
        leaving = self._leaving()
        scored = leaving.histograms(scores, request, EVALUATED) | leaving.by_subgroup(scores, request)
        if self.study.evaluation.local_baseline:
            load_trainable(local.model, local.alone(begun))
            scored |= leaving.of_own_model(functools.partial(self._scores, local.model), request)
        return scored

    def _leaving(self) -> Evaluation:
        return Evaluation(self.study, self.guard, self.images)

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
            self.guard.check(list(shared_tensors(self.study, model)))

    def _units(self, part: Part) -> list[str]:
        return privacy_units(self.images(part).records, privacy_of(self.study).unit)

    def _learn(self, model: Classifier, round_number: int, adjustment: Adjustment) -> float:
        inputs = None if self.study.training.augment else self._cached(model, "train", 1)
        trainer = Trainer(model, self.study, self.device, adjustment)
        return trainer.train(self.images("train"), self.data.name, round_number, self._progress, inputs).loss

    def _learn_privately(self, local: LocalRound, begun: Begun, request: Request, expected_units: int) -> Tensors:
        assert self.guard is not None  # noqa: S101 (seen to when the worker was made)
        privacy, plan, model = privacy_of(self.study), plan_of(self.study), local.model

        def train(adjustment: Adjustment) -> None:
            images, units = self.images("train"), self._units("train")
            PrivateTrainer(model, self.study, privacy, self.device, adjustment).train(
                self._cached(model, "train", privacy.views) or self._pixels(model),
                images.targets,
                units,
                expected_units=expected_units,
                noise_multiplier=plan.training.noise_multiplier,
                round_number=request.round,
                on_progress=self._progress,
            )

        learnt = self.guard.pay("training", request, lambda: local.learn(begun, train)[0])
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
        images = self.images(part)
        return stored_inputs(
            self.features, model, images, self.study, self.device, views=views, on_progress=lambda _d, _a: self._step()
        )

    def _scores(self, model: Classifier, part: Part) -> npt.NDArray[np.float64]:
        # Also where there is no image: work that is called off ends without any patient too.
        self._step()
        images, size, noised = self.images(part), self.study.data.image_size, has_noise(self.study)
        inputs = self._cached(model, part, 1) or PixelInputs(model, images, size, None, self.device)
        scores = scores_of(model, Watched(inputs, self._step), len(images), one_shape=noised)
        # What is no number counts as undecided: to fail on it would tell something about a patient, without noise.
        return np.nan_to_num(scores, nan=0.0) if noised else scores

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

    def _same(self, digest: str) -> Classifier:
        """Return the study's network, with whatever it was last given. Raises StudyError where another is meant."""
        if digest != self.study.digest:
            raise StudyError(f"clinic {self.data.name} holds study {self.study.digest[:12]}, not {digest[:12]}")
        return shared_classifier(self.study, self.weights_dir, self.device)


@functools.lru_cache(maxsize=2)
def shared_classifier(study: StudyProtocol, weights_dir: Path | None, device: torch.device) -> Classifier:
    """Return the study's classifier, built once a process: its workers load their tensors into it in turn.

    Two are kept: a clinic can be in two studies at a time.
    """
    model = build_study_classifier(study, weights_dir).to(device)
    return model.to(memory_format=torch.channels_last)
