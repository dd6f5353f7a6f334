"""The mean direction of a round's updates: each over the sum of its learning rates (SCAFFOLD, FedNova)."""

import math
from collections.abc import Callable

from melfed.common.aggregation.fixed_point import FixedPoint, fixed_point_for, power_of_two
from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.tensors import Tensors

RateSum = Callable[[int], float]
"""Sum of the learning rates of a round's steps, > 0, of a clinic with such a weight."""


class MeanDirection:
    """The weighted mean of (x - y) / L over updates y of a model x, with L by the updates' weights.

    As the mean of the updates themselves it is a sum of whole numbers, the same in any order.
    """

    def __init__(self, model: Tensors, weight: int, rate_sum: RateSum) -> None:
        """Begin.

        Args:
            model: the global model that the updates begin from.
            weight: the largest sum that the weights may have.
            rate_sum: of a clinic, by its weight.
        """
        self.model, self.rate_sum = model, rate_sum
        updates = fixed_point_for(model, max(weight, 1))
        # An update and the model differ by two bounds at most; fewer steps than of one image nobody takes, and where
        # more are taken their mean rate is not smaller by half.
        reach = power_of_two(4 / rate_sum(1))
        bounds = {name: bound * reach for name, bound in updates.bounds.items()}
        self._mean = WeightedMean(FixedPoint(bounds, updates.weight))
        self._sums: list[float] = []

    def of(self, tensors: Tensors, weight: float) -> Tensors:
        """Return an update's direction, float32. Raises TensorError where the mean cannot hold it."""
        total = self.rate_sum(int(weight))
        direction = {
            name: ((self.model[name] - tensor) / total).astype(self.model[name].dtype)
            for name, tensor in tensors.items()
        }
        self._mean.fixed_point.check(direction)
        return direction

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add an update. Raises TensorError, DataError as `WeightedMean.add`."""
        self._mean.add(self.of(tensors, weight), weight)
        self._sums.append(weight * self.rate_sum(int(weight)))

    def mean(self) -> tuple[Tensors, float]:
        """Return the mean direction, and the weighted mean of the L. Raises QuorumError where nothing was added."""
        weight = self._mean.weight
        # Rounded once, so that it does not hang on the order either.
        return self._mean.mean(), math.fsum(self._sums) / max(weight, 1)
