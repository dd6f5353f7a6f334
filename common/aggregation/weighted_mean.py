"""The weighted mean of a round's updates: a sum of whole numbers, the same in any order."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from melfed.common.aggregation.fixed_point import MOST_WEIGHT, OFFSET_BITS, FixedPoint, Float64, Int64
from melfed.common.errors import DataError, QuorumError
from melfed.common.tensors import Array, TensorError, Tensors

BLOCK = 1 << 16
"""Values that a thread works on at a time, so that they stay in the processor's second cache."""
MOST_THREADS = 8
SERIAL = 1 << 19
"""Up to so many values, starting threads would take longer than the sum."""
Place = tuple[str, slice]


@dataclass
class WeightedMean:
    """A weighted mean over replies, added one at a time; not one bit of it depends on the order in which they arrive.

    Each reply, weighted, is rounded once, and whole numbers are added in int64. With the unit u, n
    replies and weights that sum to w, a value of the result is at most n u / (2 w) from the mean of the updates as they
    came, and then rounded to float32 (by way of float64: a relative 2^-24 + 2^-52). Beside the reply in hand there is
    one such sum, twice the bytes of a model of float32. Masks of secure aggregation can be added to the same numbers.

    >>> mean = WeightedMean(FixedPoint({"head": 1024.0}, weight=4))
    >>> mean.add({"head": np.array([1.0, 0.0], np.float32)}, weight=3)
    >>> mean.add({"head": np.array([0.0, 2.0], np.float32)}, weight=1)
    >>> mean.mean()["head"].tolist()
    [0.75, 0.5]
    """

    fixed_point: FixedPoint
    weight: int = 0
    replies: int = 0
    _sums: dict[str, Int64] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add one reply.

        Args:
            tensors: float32; names and shapes are the same in every reply.
            weight: whole and > 0, such as the number of images that it was trained on.

        Raises:
            TensorError: a tensor does not fit the fixed point; nothing was added.
            DataError: the weight is none, or beyond what the fixed point is for; nothing was added.
        """
        most = min(MOST_WEIGHT, self.fixed_point.weight - self.weight)
        if not (1 <= weight <= most and weight == int(weight)):
            raise DataError(f"a weight of {weight:g} is not a whole number from 1 to {most}, as the round's mean takes")
        for name in tensors:
            self.fixed_point.unit(name)
        for name, tensor in tensors.items():
            if name not in self._sums:
                self._sums[name], self._shapes[name] = np.zeros(tensor.size, np.int64), tensor.shape
        flat = {name: tensor.reshape(-1) for name, tensor in tensors.items()}
        added: list[Place] = []
        try:
            self._add_all(flat, int(weight), added)
        except TensorError:
            # Whole numbers: what was added comes off to the last bit.
            buffer = np.empty(BLOCK)
            for place in added:
                sums = self._part(place)
                sums -= self._whole(flat, place, int(weight), buffer)
            raise
        self.weight += int(weight)
        self.replies += 1

    def mean(self) -> Tensors:
        """Return the mean as float32, and let go of the sum: the next reply begins another one.

        Raises:
            QuorumError: nothing was added.
        """
        if self.replies == 0:
            raise QuorumError("no clinic's update could be used, so there is nothing to average")
        result: Tensors = {}
        # Sums wrap around in 64 bits, and come back with this.
        offset = np.uint64(self.replies * OFFSET_BITS % 2**64).view(np.int64)
        for name in list(self._sums):
            # At once, so that never all of both are in memory.
            sums = self._sums.pop(name)
            flat = np.empty(sums.size, np.float32)
            units = self.weight / self.fixed_point.unit(name)
            for _, block in _places({name: sums.size}):
                flat[block] = (sums[block] - offset) / units
            result[name] = flat.reshape(self._shapes[name])
        self.weight = self.replies = 0
        return result

    def _add_all(self, flat: dict[str, Array], weight: int, added: list[Place]) -> None:
        places = list(_places({name: values.size for name, values in flat.items()}))
        threads = min(len(os.sched_getaffinity(0)), MOST_THREADS, len(places))
        if threads < 2 or sum(values.size for values in flat.values()) <= SERIAL:
            self._add(flat, places, weight, added)
            return
        with ThreadPoolExecutor(threads, "mean") as pool:
            parts = [pool.submit(self._add, flat, places[i::threads], weight, added) for i in range(threads)]
            for part in parts:
                part.result()

    def _add(self, flat: dict[str, Array], places: list[Place], weight: int, added: list[Place]) -> None:
        buffer = np.empty(BLOCK)
        for place in places:
            whole = self._whole(flat, place, weight, buffer)
            sums = self._part(place)
            sums += whole
            added.append(place)

    def _part(self, place: Place) -> Int64:
        return self._sums[place[0]][place[1]]

    def _whole(self, flat: dict[str, Array], place: Place, weight: int, buffer: Float64) -> Int64:
        values = flat[place[0]][place[1]]
        return self.fixed_point.whole(place[0], values, weight, buffer[: values.size])


def _places(sizes: dict[str, int]) -> Iterator[Place]:
    """Yield all values of tensors, `BLOCK` at a time."""
    for name, size in sizes.items():
        for start in range(0, size, BLOCK):
            yield name, slice(start, min(start + BLOCK, size))
