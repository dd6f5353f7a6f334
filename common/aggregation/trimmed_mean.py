"""Trimmed mean: Yin et al., "Byzantine-robust distributed learning" (arXiv 1803.01498).

It stands as many false updates as it leaves out at either end, which is one at least.
"""

import math
from collections.abc import Sequence

import numpy as np

from melfed.common.aggregation.blocks import by_value
from melfed.common.aggregation.rule import RobustRule, RuleOptions
from melfed.common.tensors import Tensors


def _mean(updates: Sequence[Tensors], options: RuleOptions) -> Tensors:
    """Return the mean of each value without the smallest and as many largest (`trimmed`)."""
    cut = trimmed(len(updates), options.robust_trim)
    return by_value(updates, lambda block: np.sort(block, axis=0)[cut : len(updates) - cut].mean(axis=0))


def trimmed(updates: int, trim: float) -> int:
    """Return how many of n values are left out at either end: ⌊trim × n⌋, but at least one of three or more.

    Rounding down alone, as is usual, would make it a plain mean at the default trim of 0.1 with fewer than 10 clinics.
    """
    # A hair more, since 0.29 × 100 is 28.999999999999996.
    return min(max(1, math.floor(trim * updates + 1e-9)), (updates - 1) // 2)


RULE = RobustRule(_mean)
