"""Canary patients: made up by an auditor so that whoever looks at private training's steps can tell if they took part.

The privacy that is claimed holds for every patient, so for these too. In every step a canary's gradient is far longer
than the clipping norm and lies in one coordinate of the head's weight (the "Dirac" canaries of arXiv 2305.08846). The
coordinate and the sign are drawn anew each step: whatever adds up over the steps, such as what ordinary patients teach
the head, then cancels out, and canaries that meet in a coordinate do so differently each time.
"""

import math
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from client.inputs import Inputs
from client.privacy.accounting import Mechanism
from common.data.records import LesionRecord
from common.errors import StudyError

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

FEATURE: Final = 128.0
"""What the head sees of a canary, over the clipping norm or over 1: its gradient is half as long, 64 times too long."""


class Auditor:
    """Decides where each canary's gradient lies in each step, and scores the canaries by what the steps show.

    Attributes:
        step: how many steps were seen.
        scores: of each canary, the logarithm of how much likelier the steps are with it than without, if the mechanism
            is what it claims to be; (canaries,).
        coordinates: of the head's weight, where each canary's gradient lies in the next step, (canaries,).
        signs: 1 or -1 for each canary, in the next step.
    """

    def __init__(self, canaries: int, mechanism: Mechanism, head: torch.nn.Linear, random: np.random.Generator) -> None:
        """Look at a head of shape (1, features) that is trained by a mechanism."""
        self.mechanism, self.head = mechanism, head
        self._random = random
        self.step, self.scores = 0, np.zeros(canaries)
        self._draw()

    def observe(self, scale: float) -> None:
        """Score the step whose noisy mean is the head's gradient; times `scale`, a clipped canary in it is 1 long.

        Raises:
            StudyError: the head does not learn.
        """
        gradient = self.head.weight.grad
        if gradient is None:
            raise StudyError("the head of the network does not learn, so canaries have no place; change model.train")
        seen = gradient[0].double().cpu().numpy()[self.coordinates] * self.signs * scale
        q, variance = self.mechanism.sampling_rate, self.mechanism.noise_multiplier**2
        evidence = (seen - 0.5) / variance  # the log-likelihood ratio of N(1, σ²) and N(0, σ²)
        self.scores += evidence if q == 1 else np.logaddexp(math.log1p(-q), math.log(q) + evidence)
        self.step += 1
        self._draw()

    def _draw(self) -> None:
        """Deal the head's coordinates out to the canaries, each as often as any other, or once more."""
        canaries, features = len(self.scores), self.head.in_features
        deals = [self._random.permutation(features) for _ in range(math.ceil(canaries / features))]
        self.coordinates = np.concatenate(deals)[:canaries]
        self.signs = self._random.choice([-1.0, 1.0], canaries)


class CanaryInputs:
    """A clinic's inputs, with the canaries' images after the clinic's own.

    A canary's image runs through the network as one of the clinic's pictures, and is replaced before the head: its
    features are zero there but for one. Its logit is 0 with the gradient of the head's own logit, so that nothing which
    the head learns can silence it.
    """

    def __init__(
        self, inputs: Inputs, ordinary: int, canary_of: Indices, auditor: Auditor, clipping_norm: float
    ) -> None:
        """Put canaries behind a clinic's inputs.

        Args:
            inputs: run the network on the clinic's images.
            ordinary: how many images these are.
            canary_of: the canary of each image that comes after them, (images of canaries,).
            auditor: says what the head sees of a canary.
            clipping_norm: C of the study.
        """
        self.inputs, self.ordinary, self.canary_of, self.auditor = inputs, ordinary, canary_of, auditor
        self.feature = FEATURE * max(1.0, clipping_norm)
        self.views, self.micro_batch = inputs.views, inputs.micro_batch

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:
        """Return logits, float32 (k,); see `client.inputs.Inputs`."""
        head, is_canary = self.auditor.head, torch.from_numpy(images >= self.ordinary)
        features = torch.from_numpy(self._features(images))

        def show(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            (seen,) = arguments
            return (torch.where(is_canary.to(seen.device)[:, None], features.to(seen), seen),)

        hook = head.register_forward_pre_hook(show)
        try:
            logits = self.inputs.logits(images % self.ordinary, views)
        finally:
            hook.remove()
        return torch.where(is_canary.to(logits.device), logits - logits.detach(), logits)

    def _features(self, images: Indices) -> npt.NDArray[np.float32]:
        """Return what the head is to see, (k, features); zeros for the clinic's own images."""
        rows = np.flatnonzero(images >= self.ordinary)
        canaries = self.canary_of[images[rows] - self.ordinary]
        features = np.zeros((len(images), self.auditor.head.in_features), np.float32)
        features[rows, self.auditor.coordinates[canaries]] = self.feature * self.auditor.signs[canaries]
        return features


def canary_records(like: LesionRecord, included: Bits, images: int) -> tuple[Indices, list[LesionRecord]]:
    """Return the records of the canaries that take part.

    Args:
        like: what they copy, but for the ids of patient, lesion and image.
        included: which take part, (canaries,).
        images: how many images each has.

    Returns:
        The canary of each record, and the records, a canary's together.
    """
    canary_of = np.repeat(np.flatnonzero(included), images)
    names = [f"canary {canary}" for canary in canary_of]
    records = [
        replace(like, image=f"{name}, image {number}", patient_id=name, lesion_id=name, dup_group=None)
        for number, name in enumerate(names)
    ]
    return canary_of, records


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
