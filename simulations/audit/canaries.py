"""Canary patients: made up by an auditor so that whoever looks at a clinic's answers can tell if they took part.

They are patients of the clinic like any other: rows of its table with pictures, which the clinic divides, counts and
trains on. The privacy that is claimed holds for every patient, so for these too. One thing alone is made up: what the
head sees of a canary's picture, in place of a network that would tell the pictures apart. A canary's gradient is far
longer than the clipping norm and lies in one coordinate of the head's weight (the "Dirac" canaries of arXiv
2305.08846). Coordinate and sign are drawn anew each round: whatever adds up over the rounds, such as what ordinary
patients teach the head, then cancels out, and canaries that meet in a coordinate do so differently each time.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from melfed.client.data.split import Part
from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.plan import privacy_of
from melfed.client.training.inputs import CachedInputs, Inputs, PixelInputs
from melfed.client.worker.worker import ClinicWorker
from melfed.common.data.dataset import Images
from melfed.common.model.classifier import Classifier
from melfed.common.model.frozen_prefix import split

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

FEATURE: Final = 128.0
"""What the head sees of a canary, over the clipping norm or over 1: its gradient is half as long, 64 times too long."""
NO_CANARY: Final = -1


class Auditor:
    """Decides where each canary's gradient lies in each round, and scores the canaries by what the answers show.

    Attributes:
        rounds: how many were seen.
        scores: of each canary, the logarithm of how much likelier the answers are with it than without, if the
            mechanism is what it claims to be; (canaries,).
        coordinates: of the head's weight, where each canary's gradient lies in the next round, (canaries,).
        signs: 1 or -1 for each canary, in the next round.
    """

    def __init__(self, canaries: int, mechanism: Mechanism, features: int, random: np.random.Generator) -> None:
        """Look at a head of so many features that is trained by a mechanism, that of one round."""
        self.mechanism, self.features = mechanism, features
        self._random = random
        self.rounds, self.scores = 0, np.zeros(canaries)
        self._draw()

    def observe(self, total: Floats) -> None:
        """Score a round by the noisy sums of its steps together, over the clipping norm, (features,)."""
        seen = np.nan_to_num(total)[self.coordinates] * self.signs
        q, steps = self.mechanism.sampling_rate, self.mechanism.steps
        # The log-likelihood ratio of N(j, kσ²) and N(0, kσ²), where j of k steps had the canary.
        had = np.arange(steps + 1) if q < 1 else np.array([steps])
        weights = _log_binomial(steps, q) if q < 1 else np.zeros(1)
        evidence = (had * seen[:, None] - had**2 / 2) / (steps * self.mechanism.noise_multiplier**2)
        self.scores += np.logaddexp.reduce(weights + evidence, axis=1)
        self.rounds += 1
        self._draw()

    def _draw(self) -> None:
        """Deal the head's coordinates out to the canaries, each as often as any other, or once more."""
        canaries = len(self.scores)
        deals = [self._random.permutation(self.features) for _ in range(-(-canaries // self.features))]
        self.coordinates = np.concatenate(deals)[:canaries]
        self.signs = self._random.choice([-1.0, 1.0], canaries)


def _log_binomial(trials: int, probability: float) -> Floats:
    """Return the logarithms of the probabilities of 0 to `trials` successes, (trials + 1,)."""
    k = np.arange(trials + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    chosen = factorials[-1] - factorials - factorials[::-1]
    mass: Floats = chosen + k * np.log(probability) + (trials - k) * np.log1p(-probability)
    return mass


class CanaryInputs:
    """A clinic's inputs, some of whose images are canaries'.

    A canary's image runs through the network as one of the clinic's other pictures, and is replaced before the head:
    its features are zero there but for one. Its logit is 0 with the gradient of the head's own logit, so that nothing
    which the head learns can silence it.
    """

    def __init__(
        self,
        inputs: Inputs,
        stand_ins: Indices,
        canary_of: Indices,
        head: torch.nn.Linear,
        auditor: Auditor,
        clipping_norm: float,
    ) -> None:
        """Put canaries among a clinic's inputs.

        Args:
            inputs: run the network on images without canaries.
            stand_ins: of every image, which of those is run, (images,).
            canary_of: of every image, whose it is, `NO_CANARY` for others, (images,).
            head: of the network.
            auditor: says what the head sees of a canary.
            clipping_norm: C of the study.
        """
        self.inputs, self.stand_ins, self.canary_of = inputs, stand_ins, canary_of
        self.head, self.auditor = head, auditor
        self.feature = FEATURE * max(1.0, clipping_norm)
        self.views, self.micro_batch = inputs.views, inputs.micro_batch

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:
        """Return logits, float32 (k,); see `melfed.client.training.inputs.Inputs`."""
        is_canary = torch.from_numpy(self.canary_of[images] != NO_CANARY)
        features = torch.from_numpy(self._features(images))

        def show(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            (seen,) = arguments
            return (torch.where(is_canary.to(seen.device)[:, None], features.to(seen), seen),)

        hook = self.head.register_forward_pre_hook(show)
        try:
            logits = self.inputs.logits(self.stand_ins[images], views)
        finally:
            hook.remove()
        return torch.where(is_canary.to(logits.device), logits - logits.detach(), logits)

    def _features(self, images: Indices) -> npt.NDArray[np.float32]:
        """Return what the head is to see, (k, features); zeros for other images."""
        rows = np.flatnonzero(self.canary_of[images] != NO_CANARY)
        canaries = self.canary_of[images[rows]]
        features = np.zeros((len(images), self.auditor.features), np.float32)
        features[rows, self.auditor.coordinates[canaries]] = self.feature * self.auditor.signs[canaries]
        return features


class CanaryWorker(ClinicWorker):
    """A clinic's worker, whose network tells canaries apart."""

    def __init__(self, auditor: Auditor, canaries: Mapping[str, int], *arguments: Any) -> None:
        """Take a worker's own arguments behind the auditor, and which canary each of its images is of, by name."""
        super().__init__(*arguments)
        self._auditor, self._canaries = auditor, canaries

    def _cached(self, model: Classifier, part: Part, views: int) -> Inputs | None:
        if part != "train":
            return super()._cached(model, part, views)
        images = self.images(part)
        canary_of = np.array([self._canaries.get(record.image, NO_CANARY) for record in images.records], np.int64)
        # Where nobody else is there, a canary's own picture stands in.
        run = np.flatnonzero(canary_of == NO_CANARY) if (canary_of == NO_CANARY).any() else np.arange(len(images))[:1]
        stand_ins = np.zeros(len(images), np.int64)
        stand_ins[run] = np.arange(len(run))
        inputs = self._inputs(model, replace(images, records=tuple(images.records[i] for i in run)), views)
        norm = privacy_of(self.study).clipping_norm
        return CanaryInputs(inputs, stand_ins, canary_of, model.head, self._auditor, norm)

    def _inputs(self, model: Classifier, images: Images, views: int) -> Inputs:
        """Return what a worker would run the network on."""
        size, parts = self.study.data.image_size, split(model)
        if parts is not None:
            features = self.features.features(model, images, size, self.device, views=views)
            if features is not None:
                return CachedInputs(parts, features, images, self.study.model.metadata, self.device)
        return PixelInputs(model, images, size, None, self.device)


def correct_guesses(scores: Floats, included: Bits, highest: int, lowest: int) -> int:
    """Guess that the canaries of the highest scores took part and those of the lowest did not; count what is right.

    Args:
        scores: (canaries,).
        included: which took part, (canaries,).
        highest: how many are guessed to have taken part.
        lowest: how many are guessed not to have.
    """
    order = np.argsort(scores, kind="stable")
    return int(included[order[len(order) - highest :]].sum() + (~included[order[:lowest]]).sum())
