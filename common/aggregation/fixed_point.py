"""Fixed-point numbers, as which a round's updates are added: weighted, each is rounded to whole numbers once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from melfed.common.tensors import Array, TensorError

HEADROOM: Final = 2.0**10
"""A tensor of an update may hold values so many times as large as the largest of the global model's, or as 1."""
SUM_BITS: Final = 50
"""Sums of weights times values stay below 2^50 units. So within int64 there is room for 8,192 such sums' masks, and
every whole number on the way there is one of float64's as well."""
WEIGHT_BITS: Final = 4
"""The sum of weights counts by its powers of 2^4."""
MOST_WEIGHT: Final = 2**29
"""Of one update: with float32's 24 bits, its products are exact in float64 before they are rounded."""
_OFFSET: Final = 1.5 * 2.0**52
"""Added to a float64 below 2^51, it rounds that to a whole number (ties to even), which then is in the last bits."""
OFFSET_BITS: Final = int(np.float64(_OFFSET).view(np.int64))
"""What those bits are of zero, as an integer."""

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FixedPoint:
    """Whole numbers of a unit for each tensor, the same for all of a round's updates; public numbers decide them.

    A value x of a tensor with bound B, and a weight w, become the whole number round(w x / u), u = B W / 2^50, with W
    the smallest power of sixteen above the largest sum of weights: not of two, so that the unit, and with it every bit
    of the mean, is mostly the same with and without a clinic that is refused. Of a mean of n updates with all of that
    sum, u moves no value by more than n B / 2^47: of 24 updates of a model with values up to 1, by 1.8e-10.
    Values of 30 bits times weights normalised to a sum of 2^32 would take 62 bits, and move it further.

    Attributes:
        bounds: the largest magnitude that a tensor's values may have, a power of two, by name.
        weight: the largest sum that the weights of a round may have (whole, > 0).

    >>> fixed = FixedPoint({"head": 1024.0}, weight=10_000)
    >>> fixed.unit("head") == 2.0 ** (10 + 16 - 50)
    True
    """

    bounds: Mapping[str, float]
    weight: int

    def unit(self, name: str) -> float:
        """Return the unit of a tensor's weighted values, a power of two. Raises TensorError of a tensor unknown."""
        bits = -(-int(self.weight).bit_length() // WEIGHT_BITS) * WEIGHT_BITS
        return self._bound(name) * 2.0 ** (bits - SUM_BITS)

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Check that an update fits.

        Raises:
            TensorError: names the first tensor that does not, or that is none of the model's.
        """
        for name, tensor in tensors.items():
            self._check(name, tensor)

    def whole(self, name: str, values: Array, weight: int, out: Float64) -> Int64:
        """Return weighted values in units, whole, each with `OFFSET_BITS` added: whoever adds up takes these off.

        Args:
            name: of their tensor.
            values: shape (n,).
            weight: whole, 1 to `MOST_WEIGHT`.
            out: shape (n,); the result is in its memory.

        Raises:
            TensorError: as `check`.
        """
        self._check(name, values)
        # By steps: a product of float32 and float64 takes NumPy longer than a copy and a product.
        np.copyto(out, values)
        out *= weight / self.unit(name)
        # Its own conversion to int64 takes NumPy three times as long.
        out += _OFFSET
        return out.view(np.int64)

    def _bound(self, name: str) -> float:
        if name not in self.bounds:
            raise TensorError(f"tensor {name} is none of the model's")
        return self.bounds[name]

    def _check(self, name: str, values: Array) -> None:
        bound = self._bound(name)
        # Written so that what is not a number fails.
        if not (largest := magnitude(values)) <= bound:
            raise TensorError(
                f"tensor {name} holds a value of {largest:.4g}, beyond the {bound:g} that the round's mean takes; "
                "lower the learning rate"
            )


def fixed_point_for(model: Mapping[str, Array], weight: int, reach: float = 0.0) -> FixedPoint:
    """Return the fixed point for updates of a global model.

    Args:
        model: the global model, finite.
        weight: the largest sum of weights.
        reach: how far from the model an update may be, beyond the headroom (`federation.clip_update_norm`).

    >>> fixed_point_for({"head": np.array([0.5, -3.0], np.float32)}, weight=100).bounds
    {'head': 4096.0}
    """
    bounds = {}
    for name, tensor in model.items():
        largest = magnitude(tensor)
        bounds[name] = max(HEADROOM * power_of_two(max(largest, 1.0)), power_of_two(largest + reach or 1.0))
    return FixedPoint(bounds, weight)


def magnitude(tensor: Array) -> float:
    """Return the largest magnitude of a tensor's values; not a number where one of them is none."""
    return max(float(tensor.max(initial=0)), -float(tensor.min(initial=0)))


def power_of_two(number: float) -> float:
    """Return the smallest power of two that is not below a number > 0."""
    mantissa, exponent = np.frexp(number)
    return float(2.0 ** int(exponent - (mantissa == 0.5)))
