"""What a scheme of partition is, and shares of groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Owners = NDArray[np.intp]


class SchemeOptions(Protocol):
    """What schemes read of a study (`melfed.common.study.protocol.PartitionSpec`)."""

    @property
    def alpha(self) -> float:
        """Concentration, or exponent."""

    @property
    def classes(self) -> int | None:
        """How many classes a clinic has."""


@dataclass(frozen=True)
class Dealt:
    """What is dealt out: for each group whether it has a positive image, shape (groups,), and its class."""

    positive: NDArray[np.bool_]
    classes: Sequence[str]


Deal = Callable[[Dealt, int, SchemeOptions, np.random.Generator], Owners]
"""Returns each group's clinic, 0 to clinics - 1, shape (groups,)."""


def by_shares(count: int, shares: NDArray[np.float64], generator: np.random.Generator) -> Owners:
    """Return the owners, 0 to clinics - 1, of `count` groups in random order; the clinics' shares add up to 1.

    >>> owners = by_shares(10, np.array([0.5, 0.3, 0.2]), np.random.default_rng(0))
    >>> np.bincount(owners).tolist()
    [5, 3, 2]
    """
    borders = np.rint(np.cumsum(shares)[:-1] * count)
    return generator.permutation(np.searchsorted(borders, np.arange(count), side="right"))


def by_rank(log_size: Callable[[NDArray[np.float64], SchemeOptions], NDArray[np.float64]]) -> Deal:
    """Return the scheme by which the k-th clinic's size is proportional to the exponential of a function of k."""

    def deal(dealt: Dealt, clinics: int, options: SchemeOptions, generator: np.random.Generator) -> Owners:
        logs = log_size(np.arange(1, clinics + 1, dtype=np.float64), options)
        sizes = np.exp(logs - logs.max())  # e^1000 is no number
        return by_shares(len(dealt.positive), sizes / sizes.sum(), generator)

    return deal
