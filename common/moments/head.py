"""A linear head on a study's features, and how good it is by moments alone."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from melfed.common.moments.noisy_moments import FloatArray, MomentClass, NoisyMoments
from melfed.common.tensors import Tensors

_LEAST_UNITS: Final = 1.0
"""A class that noise makes smaller counts as so many units."""


@dataclass(frozen=True, eq=False)
class Head:
    """Logits w·x + b.

    Attributes:
        weight: w, shape (d,).
        bias: b.
    """

    weight: FloatArray
    bias: float

    def tensors(self) -> Tensors:
        """Return the head as a study's network holds it: `head.weight` (1, d) and `head.bias` (1,), float32."""
        return {
            "head.weight": np.asarray(self.weight[None], np.float32),
            "head.bias": np.asarray([self.bias], np.float32),
        }


@dataclass(frozen=True)
class ScoresOfClass:
    """What moments say of a head's logits in one class.

    Attributes:
        units: how many, at least 1.
        mean: of the logits.
        variance: of the logits, at least a little above 0.
    """

    units: float
    mean: float
    variance: float


def scores_of_class(head: Head, moments: NoisyMoments, name: MomentClass) -> ScoresOfClass:
    """Return mean and variance of a head's logits over the units of a class, by its moments."""
    units = max(moments.count(name), _LEAST_UNITS)
    mean = float(head.weight @ moments.total(name)) / units
    square = float(head.weight @ moments.second(name) @ head.weight) / units
    least = 1e-6 * float(head.weight @ head.weight) + 1e-300
    return ScoresOfClass(units, mean + head.bias, max(square - mean * mean, least))


def binormal_auroc(positive: ScoresOfClass, negative: ScoresOfClass) -> float:
    """Return the AUROC of normal scores of these means and variances: Φ((μ₁ - μ₀) / √(σ₁² + σ₀²)).

    An approximation: a mean of many features is nearly normal, and the order of scores is all that AUROC knows.
    """
    ratio = (positive.mean - negative.mean) / math.sqrt(positive.variance + negative.variance)
    return math.erfc(-ratio / math.sqrt(2)) / 2
