"""The weighted mean of a round's updates: exact, in any order, with one sum in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from melfed.common.errors import QuorumError
from melfed.common.tensors import Tensors

Float64 = npt.NDArray[np.float64]

DIGIT_BITS = 36
# Float32 values times whole weights under 2^24 lie between 2^-149 and 2^152, so these digits hold all of their bits.
HIGHEST_DIGIT, LOWEST_DIGIT = 4, -5


@dataclass
class WeightedMean:
    """A weighted mean over replies, added one at a time; not one bit of it depends on the order in which they arrive.

    Sums are exact. Each product of value and weight is cut into digits of 36 bits, the k-th a multiple of 2^(36 k), and
    the digits are summed place by place: up to 2^18 replies, such a sum is a multiple too small for float64 to round.
    Of the ten places a network's values need two or three, and only these are kept. The idea of fixed places is that of
    Demmel and Nguyen, "Fast reproducible floating-point summation" (2013).

    >>> mean = WeightedMean()
    >>> mean.add({"head": np.array([1.0, 0.0], np.float32)}, weight=3)
    >>> mean.add({"head": np.array([0.0, 2.0], np.float32)}, weight=1)
    >>> mean.mean()["head"].tolist()
    [0.75, 0.5]
    """

    weight: float = 0.0
    _sums: dict[str, dict[int, Float64]] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add one reply with its weight (whole and > 0), such as the number of images that it was trained on."""
        self.weight += weight
        for name, tensor in tensors.items():
            self._shapes[name] = tensor.shape
            sums = self._sums.setdefault(name, {})
            for place, digit in _digits(tensor.astype(np.float64) * weight):
                sums[place] = sums[place] + digit if place in sums else digit

    def mean(self) -> Tensors:
        """Return the mean as float32.

        Raises:
            QuorumError: nothing was added.
        """
        if self.weight <= 0:
            raise QuorumError("no clinic's update could be used, so there is nothing to average")
        return {name: np.asarray(self._total(name) / self.weight, np.float32) for name in self._shapes}

    def _total(self, name: str) -> Float64:
        total = np.zeros(self._shapes[name])
        for _, digits in sorted(self._sums[name].items(), reverse=True):
            total += digits
        return total


def _digits(rest: Float64) -> Iterator[tuple[int, Float64]]:
    """Yield the digits that add up to the values, with their places; the highest first, and none that is zero."""
    largest = np.abs(rest).max(initial=0)
    for place in range(HIGHEST_DIGIT, LOWEST_DIGIT - 1, -1):
        unit = 2.0 ** (DIGIT_BITS * place)
        if largest > unit / 2:
            digit = np.rint(rest / unit) * unit
            yield place, digit
            rest = rest - digit
            largest = np.abs(rest).max(initial=0)
