"""Ranks of configurations over blocks: Friedman's test, and Nemenyi's critical difference."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from melfed.common.metrics.intervals import FloatArray


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of configurations over blocks (rank 1 is the best), after Demšar (JMLR 2006).

    Attributes:
        mean: of each configuration.
        p: of Friedman's test that all are equal.
        critical: Nemenyi's critical difference at 5 %: mean ranks closer than that are not told apart.
        blocks: how many there are.
    """

    mean: tuple[float, ...]
    p: float
    critical: float
    blocks: int

    def cliques(self) -> list[tuple[int, ...]]:
        """Return the largest sets of configurations, by their numbers from the best on, that are not told apart."""
        order = sorted(range(len(self.mean)), key=self.mean.__getitem__)
        found: list[tuple[int, ...]] = []
        for start, first in enumerate(order):
            within = tuple(n for n in order[start:] if self.mean[n] - self.mean[first] <= self.critical)
            if len(within) > 1 and not any(set(within) <= set(known) for known in found):
                found.append(within)
        return found


def friedman(values: FloatArray) -> Ranks:
    """Compare configurations over blocks.

    Args:
        values: shape (blocks, configurations), larger is better; at least two blocks and three configurations.
    """
    blocks, k = values.shape
    ranks = stats.rankdata(-values, axis=1)
    same = bool(np.all(ranks == ranks[0, 0]))
    p = 1.0 if same else float(stats.friedmanchisquare(*values.T).pvalue)
    return Ranks(tuple(map(float, ranks.mean(axis=0))), p, critical_difference(k, blocks), blocks)


def critical_difference(configurations: int, blocks: int) -> float:
    """Return Nemenyi's critical difference of mean ranks at 5 %.

    >>> round(critical_difference(5, 10) / math.sqrt(5 * 6 / 60), 3)
    2.728
    """
    q = float(stats.studentized_range.ppf(0.95, configurations, math.inf)) / math.sqrt(2)
    return q * math.sqrt(configurations * (configurations + 1) / (6 * blocks))
