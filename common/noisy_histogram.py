"""Score histograms that leave a clinic with noise: what is measured, and how the measurements travel and merge.

A histogram of many narrow bins would drown: what an AUROC needs are sums over many bins, and their noise adds up. So a
clinic does not release counts h with noise but weighted running sums W h with noise, from which the counts follow as
W⁻¹ (W h + noise): their noise is now correlated such that sums over neighbouring bins stay nearly as exact as the bins
themselves (the factorisation mechanism, Li et al., VLDB Journal 2015; 24:757-781; W is the square root of the matrix
of running sums, Fichtenberger, Henzinger & Upadhyay, ICML 2023). Melanomas are summed from the low scores up, other
images from the high ones down, which leaves least noise where the two classes overlap.

Every patient (more exactly: every unit that the study protects) counts once. Its images of a class share the weight of
the class evenly: 1 where it has images of one class alone, 4/5 for its melanomas and 3/5 for its other images where it
has both, so that the weights' Euclidean norm is 1. The pooled AUROC is thus that of a random image of a random patient
with a melanoma against a random image of a random patient with another lesion, not that of images.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.histogram import MAX_IMAGES, IntArray, ScoreHistogram
from common.intervals import FloatArray

SCORE_BINS = 96
BINS_A_LOGIT = 6
# Bin b holds the probabilities in [SCORE_EDGES[b-1], SCORE_EDGES[b]); logits from -47/6 to 47/6. Logit 0 is the middle
# one. They are constants: bins chosen by the data would have to be paid for.
LOGIT_EDGES: FloatArray = (np.arange(1, SCORE_BINS) - SCORE_BINS // 2) / BINS_A_LOGIT
LOGIT_EDGES.flags.writeable = False
SCORE_EDGES: FloatArray = 1 / (1 + np.exp(-LOGIT_EDGES))
SCORE_EDGES.flags.writeable = False

SHARES = 5040
"""Parts of a unit's weight: the least common multiple of 1 to 10, so that up to ten images share it without loss."""
_STEP = 1024
"""Parts of a weight of the running sums. All sums are whole numbers, so nothing depends on the order of additions."""
SCALE = SHARES * _STEP
"""Grid units of one count."""
VARIANCE_UNIT = 2.0**-30
"""Of `noise_variance`, in squared counts."""
_LARGEST_VARIANCE = 2**61
_LARGEST_SUM = 2.0**62
REACH = 10
"""Noise beyond so many standard deviations is not noise: it would happen once in 10^22 measurements."""


def _root_weights() -> IntArray:
    """Square root of the running sum: lower triangular, its diagonals the coefficients of (1 - x)^(-1/2), shape (n, n).

    In units of 1/1024.
    """
    first = np.cumprod([1.0, *((2 * k - 1) / (2 * k) for k in range(1, SCORE_BINS))])
    rounded = np.rint(first * _STEP).astype(np.int64)
    lag = np.subtract.outer(np.arange(SCORE_BINS), np.arange(SCORE_BINS))
    return np.where(lag >= 0, rounded[np.abs(lag)], 0)


WEIGHTS: Mapping[str, IntArray] = {"positives": _root_weights(), "negatives": _root_weights().T.copy()}
"""What is measured of each class: WEIGHTS[name] @ (shares by bin), in grid units."""
for _matrix in WEIGHTS.values():
    _matrix.flags.writeable = False
SENSITIVITY = SHARES * (math.isqrt(int((WEIGHTS["positives"][:, 0] ** 2).sum())) + 1)
"""Largest Euclidean change of all measurements by one unit that comes or goes, in grid units (rounded up).

A bin's column has at most the norm of the first one. A unit's shares of a class sum up to its weight w in it, so they
move the measurements of the class by at most w such norms, and both classes together by sqrt(w² + w'²) = 1 of them.
"""
_INVERSES: Mapping[str, FloatArray] = {
    name: np.linalg.inv(matrix / _STEP).astype(np.float64) for name, matrix in WEIGHTS.items()
}


def noise_variance(noise_multiplier: float) -> int:
    """Return what `noise_variance` a histogram states whose noise is σ times `SENSITIVITY`."""
    # Rounded up, so that the noise is never stated too small.
    return math.ceil((noise_multiplier * SENSITIVITY / SCALE) ** 2 / VARIANCE_UNIT)


@dataclass(frozen=True, eq=False)
class NoisyHistogram:
    """Measurements of one evaluation set with noise; ``a + b`` merges two sets, whose units must differ.

    Attributes:
        positives: weighted running sums of melanomas, plus noise, grid units of 1/SCALE counts, shape (SCORE_BINS,).
        negatives: the same of the other images.
        noise_variance: variance of the noise of each measurement, units of 2^-30 squared counts, shape (1,).

    Raises:
        DataError: on construction, where an array has the wrong type or shape, or is beyond what data and noise give.
    """

    positives: IntArray
    negatives: IntArray
    noise_variance: IntArray

    def __post_init__(self) -> None:
        for field in fields(self):
            array = getattr(self, field.name)
            if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.shape != _SHAPES[field.name]:
                raise _refuse(f"{field.name} is not an int64 array of shape {_SHAPES[field.name]}")
            frozen = array.astype(np.int64)  # a copy: the caller's array stays the caller's
            frozen.flags.writeable = False
            object.__setattr__(self, field.name, frozen)
        if not 0 <= self.noise_variance[0] <= _LARGEST_VARIANCE:
            raise _refuse(f"{self.noise_variance[0]} is no variance of noise")
        slack = REACH * self.noise_std * SCALE
        for name in ("positives", "negatives"):
            array = getattr(self, name)
            if (array < -slack).any() or (array > MAX_IMAGES * SCALE + slack).any():
                raise _refuse(f"{name} has an entry beyond what {MAX_IMAGES} patients and this noise can give")

    @classmethod
    def empty(cls) -> Self:
        """The histogram of nobody, without noise: neutral in ``+``."""
        return cls(**{name: np.zeros(shape, dtype=np.int64) for name, shape in _SHAPES.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """The inverse of ``to_arrays``, for arrays that another party sent.

        Raises:
            DataError: an array is missing, unknown, of wrong type or shape, or beyond what data and noise can give.
        """
        if set(arrays) != set(_SHAPES):
            difference = ", ".join(sorted(map(str, set(arrays) ^ set(_SHAPES))))
            raise DataError(f"noised histogram: missing or unknown arrays: {difference}; use the same melfed version")
        return cls(**{name: arrays[name] for name in _SHAPES})  # type: ignore[arg-type]  # checked on construction

    def to_arrays(self) -> dict[str, IntArray]:
        """The arrays by name, as they travel: int64, shapes as in the attributes."""
        return {name: getattr(self, name) for name in _SHAPES}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Sequence[int]]) -> Self:
        """Histogram from the lists of ``to_lists``. Raises DataError as ``from_arrays``."""
        return cls.from_arrays({name: _integers(name, values) for name, values in lists.items()})

    def to_lists(self) -> dict[str, list[int]]:
        """The same as lists, for JSON."""
        return {name: array.tolist() for name, array in self.to_arrays().items()}

    def __add__(self, other: "NoisyHistogram") -> "NoisyHistogram":
        """Histogram of both sets together, with the noise of both; no unit may be in both."""
        mine, theirs = self.to_arrays(), other.to_arrays()
        return NoisyHistogram(**{name: mine[name] + theirs[name] for name in _SHAPES})

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise of a measurement, in counts."""
        return math.sqrt(float(self.noise_variance[0]) * VARIANCE_UNIT)

    @property
    def largest(self) -> float:
        """Largest measurement, in counts: how many patients there are at least, but for the noise."""
        return max(float(self.positives.max()), float(self.negatives.max())) / SCALE

    def counts(self, name: str) -> FloatArray:
        """Return unbiased counts by bin of `positives` or `negatives`, shape (SCORE_BINS,); noise can make them < 0."""
        unbiased: FloatArray = _INVERSES[name] @ (getattr(self, name) / SCALE)
        return unbiased

    def noise(self, name: str) -> FloatArray:
        """Return the covariance of the noise of these counts, shape (SCORE_BINS, SCORE_BINS)."""
        covariance: FloatArray = self.noise_std**2 * (_INVERSES[name] @ _INVERSES[name].T)
        return covariance


Histogram = ScoreHistogram | NoisyHistogram

_SHAPES: dict[str, tuple[int, ...]] = {
    "positives": (SCORE_BINS,),
    "negatives": (SCORE_BINS,),
    "noise_variance": (1,),
}


def histogram_from_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> Histogram:
    """Histogram from arrays that another party sent: noised where they say how much noise they have.

    Raises:
        DataError: they are neither kind of histogram.
    """
    return (NoisyHistogram if "noise_variance" in arrays else ScoreHistogram).from_arrays(arrays)


def histogram_from_lists(lists: Mapping[str, Sequence[int]]) -> Histogram:
    """Histogram from the lists of `to_lists` of either kind. Raises DataError as ``histogram_from_arrays``."""
    return (NoisyHistogram if "noise_variance" in lists else ScoreHistogram).from_lists(lists)


def pooled(histograms: Iterable[Histogram]) -> Histogram:
    """Sum of histograms, all with noise or all without; without any: that of no image.

    It is checked as a whole, so that the order in which clinics answer does not decide whether there is a sum.

    Raises:
        DataError: some have noise and some do not, or their sum is beyond what a histogram can hold.
    """
    every = list(histograms)
    noised = [h for h in every if isinstance(h, NoisyHistogram)]
    exact = [h for h in every if isinstance(h, ScoreHistogram)]
    if noised and exact:
        raise DataError(
            f"{len(noised)} of {len(every)} score histograms have noise and the others not; evaluate all in one way"
        )
    arrays = [h.to_arrays() for h in every] or [ScoreHistogram.empty().to_arrays()]
    stacks = {name: np.stack([one[name] for one in arrays]) for name in arrays[0]}
    # Integers would overflow silently; floats do not.
    if any((np.abs(stack.sum(axis=0, dtype=np.float64)) > _LARGEST_SUM).any() for stack in stacks.values()):
        raise DataError(f"the sum of {len(every)} score histograms is beyond what data and noise can give")
    return histogram_from_arrays({name: stack.sum(axis=0) for name, stack in stacks.items()})


def _integers(name: str, values: Sequence[int]) -> IntArray:
    try:
        array = np.array(values)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind != "i":  # numpy would cut fractions off
        raise _refuse(f"{name} is not a list of whole numbers")
    return array.astype(np.int64)


def _refuse(reason: str) -> DataError:
    return DataError(f"noised histogram: {reason}; it is damaged or was altered, ask its sender to evaluate again")
