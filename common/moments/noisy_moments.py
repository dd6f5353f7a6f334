"""Class-wise moments that leave a clinic with noise: what is measured, how it travels and merges.

Of each class a clinic releases three things about the features x that the head of a study sees (those of a public run's
neck, whitened): how many units there are, the sum of their features, and the sum of their outer products x xᵀ. A linear
head is solved from these alone, whatever its regularisation, and whoever has the releases of several clinics can add
them, leave one out, or solve another head: none of that looks at a patient again.

Every patient (more exactly: every unit that the study protects) counts once, as in
`melfed.common.metrics.noisy_histogram`: its images of a class are averaged, each shortened to a norm of at most 1
before, and weigh 1, or 4/5 (positive) and 3/5 (others) where it has images of both classes.

**Sensitivity.** In one class a unit of weight w and mean feature x adds w to the count, w x to the sum, and w x xᵀ to
the second moment. Of the symmetric matrix the upper triangle leaves, with everything off the diagonal times √2, so that
the Euclidean norm of what leaves is the Frobenius norm of the matrix: ‖x xᵀ‖ = ‖x‖². So a unit moves all that leaves of
a class by

    w √(1 + ‖x‖² + ‖x‖⁴) ≤ w √3,

since ‖x‖ ≤ 1 (a mean of vectors of norm at most 1), and both classes together by √(w² + w'²) √3 = √3 at most, because
1² + 0² = (4/5)² + (3/5)² = 1. The 1 is the count itself: it is the bias column of the features, and not shortened with
them. A unit that joins or leaves is in one part (training or validation), so that both parts together are moved by no
more than √3 either: with the same noise in both they are one Gaussian mechanism. The bound is reached by a unit with
features of norm 1. (√2 off the diagonal halves the variance of the noise there, at no cost: without it the norm is
√((‖x‖⁴ + Σ xᵢ⁴) / 2), which has the same largest value.)

All sums are whole numbers of 1/`SCALE` counts, each unit's share rounded towards 0, so that nothing depends on the
order of additions, and rounding moves nobody by more than `SENSITIVITY`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from melfed.common.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
MomentClass = Literal["positives", "negatives"]

SCALE: Final = 1 << 24
"""Grid units of one count."""
SENSITIVITY: Final = math.isqrt(3 * SCALE**2) + 1
"""Largest Euclidean change of all that leaves by one unit that comes or goes, in grid units: √3, rounded up."""
CLASSES: Final[tuple[MomentClass, ...]] = ("positives", "negatives")
OF_BOTH: Final[Mapping[MomentClass, float]] = {"positives": 4 / 5, "negatives": 3 / 5}
"""Weights of a unit that has images of both classes: 4² + 3² = 5²."""
MOST_FEATURES: Final = 4096
REACH: Final = 10.0
"""Noise beyond so many standard deviations is not noise: it would happen once in 10^22 measurements."""
MOST_UNITS: Final = 10_000_000
_LARGEST_SUM = 2.0**62
_ARRAYS = ("positives", "negatives", "noise_variance")


def length_of(features: int) -> int:
    """Return how many numbers leave of each class: 1 + d + d (d + 1) / 2 for d features."""
    return 1 + features + features * (features + 1) // 2


@lru_cache(maxsize=8)
def triangle(features: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Return rows, columns and factors of the upper triangle of a second moment, each of shape (d (d + 1) / 2,)."""
    rows, columns = (np.asarray(index, np.int64) for index in np.triu_indices(features))
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2))


def vectors(features: FloatArray) -> FloatArray:
    """Return what each unit adds to a class of its own, shape (units, `length_of`), from features (units, d)."""
    rows, columns, factors = triangle(features.shape[1])
    products = features[:, rows] * features[:, columns] * factors
    return np.concatenate([np.ones((len(features), 1)), features, products], axis=1)


@dataclass(frozen=True, eq=False)
class NoisyMoments:
    """Moments of both classes of one part, with noise; ``a + b`` merges those of different units.

    Attributes:
        positives: of the positive class, in grid units of 1/SCALE: the count, the sum (d,), and the upper triangle of
            the second moment (d (d + 1) / 2,), off the diagonal times √2; shape (`length_of`,).
        negatives: of the other class.
        noise_variance: variance of the noise of each of these numbers, in squared grid units, shape (1,); 0: none.

    Raises:
        DataError: on construction, where an array has the wrong type or shape, or is beyond what data and noise give.
    """

    positives: IntArray
    negatives: IntArray
    noise_variance: FloatArray

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = getattr(self, name)
            dtype = np.dtype(np.float64 if name == "noise_variance" else np.int64)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                raise _refuse(f"{name} is not an array of {dtype} of one dimension")
            frozen = array.copy()  # the caller's array stays the caller's
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)
        if self.noise_variance.shape != (1,) or not 0 <= self.noise_variance[0] < _LARGEST_SUM:
            raise _refuse("its noise has no variance that noise can have")
        if len(self.positives) != len(self.negatives) or len(self.positives) != length_of(self.features):
            raise _refuse(f"{len(self.positives)} and {len(self.negatives)} numbers are the moments of no features")
        if not 1 <= self.features <= MOST_FEATURES:
            raise _refuse(f"{self.features} features are none, or more than {MOST_FEATURES}")
        most = MOST_UNITS * SCALE + REACH * self.noise_std * SCALE
        if any((np.abs(getattr(self, name).astype(np.float64)) > most).any() for name in CLASSES):
            raise _refuse(f"it has an entry beyond what {MOST_UNITS} patients and this noise can give")

    @classmethod
    def empty(cls, features: int) -> Self:
        """The moments of nobody, without noise: neutral in ``+``."""
        nobody = np.zeros(length_of(features), np.int64)
        return cls(nobody, nobody, np.zeros(1))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """The inverse of ``to_arrays``, for arrays that another party sent.

        Raises:
            DataError: an array is missing, unknown, of wrong type or shape, or beyond what data and noise can give.
        """
        if set(arrays) != set(_ARRAYS):
            difference = ", ".join(sorted(map(str, set(arrays) ^ set(_ARRAYS))))
            raise DataError(f"noised moments: missing or unknown arrays: {difference}; use the same melfed version")
        return cls(**{name: arrays[name] for name in _ARRAYS})  # type: ignore[arg-type]  # checked on construction

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by name, as they travel."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def __add__(self, other: "NoisyMoments") -> "NoisyMoments":
        """Moments of both together, with the noise of both; no unit may be in both. Raises DataError."""
        return pooled([self, other])

    @property
    def features(self) -> int:
        """How many features there are, d; 0 where no d has so many moments."""
        return max((math.isqrt(8 * len(self.positives) + 1) - 3) // 2, 0)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise of a number, in counts; off a second moment's diagonal 1/√2 of it."""
        return math.sqrt(float(self.noise_variance[0])) / SCALE

    def count(self, name: MomentClass) -> float:
        """Return the weighted number of units of a class; noise can make it negative."""
        return float(getattr(self, name)[0]) / SCALE

    def total(self, name: MomentClass) -> FloatArray:
        """Return the sum of a class's features, shape (d,)."""
        return np.asarray(getattr(self, name)[1 : 1 + self.features] / SCALE, np.float64)

    def second(self, name: MomentClass) -> FloatArray:
        """Return the sum of a class's outer products, symmetric, shape (d, d); noise can make it indefinite."""
        rows, columns, factors = triangle(self.features)
        matrix = np.zeros((self.features, self.features))
        matrix[rows, columns] = getattr(self, name)[1 + self.features :] / (SCALE * factors)
        return matrix + np.triu(matrix, 1).T


def pooled(moments: Iterable[NoisyMoments]) -> NoisyMoments:
    """Return the sum of moments, all of the same features.

    It is a sum of whole numbers, so that it is the same to the last bit in whatever order they come.

    Raises:
        DataError: there are none, they are of different features, or the sum is beyond what moments can hold.
    """
    every: Sequence[NoisyMoments] = list(moments)
    if not every:
        raise DataError("no moments to add up")
    if len({each.features for each in every}) > 1:
        raise DataError(f"{len(every)} clinics' moments are of different features; use one public run's neck")
    stacks = {name: np.stack([getattr(each, name) for each in every]) for name in CLASSES}
    # Integers would overflow silently; floats do not.
    if any((np.abs(stack.astype(np.float64)).sum(axis=0) > _LARGEST_SUM).any() for stack in stacks.values()):
        raise DataError(f"the sum of {len(every)} clinics' moments is beyond what data and noise can give")
    variance = np.array([math.fsum(float(each.noise_variance[0]) for each in every)])
    return NoisyMoments(noise_variance=variance, **{name: stack.sum(axis=0) for name, stack in stacks.items()})


def noise_variance(noise_multiplier: float) -> FloatArray:
    """Return what `noise_variance` moments state whose noise is σ times `SENSITIVITY`, shape (1,)."""
    return np.array([(noise_multiplier * SENSITIVITY) ** 2])


def _refuse(reason: str) -> DataError:
    return DataError(f"noised moments: {reason}; they are damaged or were altered, ask their sender again")
