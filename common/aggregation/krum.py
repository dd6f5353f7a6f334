"""Krum: the one update that lies closest to the others. Blanchard et al., "Machine learning with adversaries" (arXiv
1703.02757). It stands `robust_byzantine` false updates.
"""

from collections.abc import Sequence

import numpy as np

from melfed.common.aggregation.blocks import Float64, stacks
from melfed.common.aggregation.fixed_point import FixedPoint, magnitude, power_of_two
from melfed.common.aggregation.rule import RobustRule, RuleOptions
from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.tensors import Tensors


def krum_order(updates: Sequence[Tensors], byzantine: int) -> list[int]:
    """Return the updates' indices, the most trustworthy first.

    Each is scored by the sum of the squared distances to its n - f - 2 nearest others (at least one).

    >>> updates = [{"head": np.array([value], np.float32)} for value in (1.0, 50.0, 1.1, 0.9, 1.05)]
    >>> krum_order(updates, byzantine=1)
    [4, 0, 2, 3, 1]
    """
    distances = squared_distances(updates)
    nearest = max(1, len(updates) - byzantine - 2)
    # The nearest of all is an update itself, at distance zero.
    scores = np.sort(distances, axis=1)[:, 1 : nearest + 1].sum(axis=1)
    return [int(index) for index in np.argsort(scores, kind="stable")]


def mean_of_first(updates: Sequence[Tensors], byzantine: int, kept: int) -> Tensors:
    """Return the mean of the most trustworthy updates; one alone as it is."""
    chosen = [updates[index] for index in krum_order(updates, byzantine)[:kept]]
    if kept == 1:
        return chosen[0]
    # All of them are here, so there is no need for a headroom.
    largest = {name: max(magnitude(update[name]) for update in chosen) for name in chosen[0]}
    mean = WeightedMean(FixedPoint({name: power_of_two(value or 1.0) for name, value in largest.items()}, kept))
    for update in chosen:
        mean.add(update, 1)
    return mean.mean()


def needed(options: RuleOptions) -> int:
    """Return 2 f + 3: there, 2 f + 2 < n."""
    return 2 * options.robust_byzantine + 3


def squared_distances(updates: Sequence[Tensors]) -> Float64:
    """Return the squared distances of n updates from each other, shape (n, n).

    Differences are taken in float64 before they are squared. By |x|² + |y|² - 2 xy, as Flower 1.42 has it, fine-tuned
    models, which differ by a thousandth of their length, have distances that are rounding alone, and the one that is
    chosen is another one (findings/flower-krum-rounds-its-distances.sh).
    """
    distances = np.zeros((len(updates), len(updates)))
    for name in updates[0]:
        for block in stacks([update[name] for update in updates]):
            for i, one in enumerate(block):
                rest = block[i + 1 :] - one
                squares = (rest * rest).sum(axis=1)
                distances[i, i + 1 :] += squares
                distances[i + 1 :, i] += squares
    return distances


RULE = RobustRule(lambda updates, options: mean_of_first(updates, options.robust_byzantine, 1), needed)
