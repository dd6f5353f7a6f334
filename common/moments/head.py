"""A linear head on a study's features, and how good it is by moments alone."""

import math
from dataclasses import dataclass

import numpy as np

from melfed.common.moments.noisy_moments import FloatArray
from melfed.common.tensors import Tensors


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


def binormal_auroc(distance: float, variance: float) -> float:
    """Return the AUROC of normal scores whose means are so far apart, and whose variances add up to this: Φ(δ / √v).

    An approximation: a mean of many features is nearly normal, and the order of scores is all that AUROC knows.
    """
    return math.erfc(-distance / math.sqrt(2 * variance)) / 2
