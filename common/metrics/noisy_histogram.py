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

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from melfed.common.errors import DataError
from melfed.common.metrics.histogram import MAX_IMAGES, Counted, ScoreHistogram, total
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.score_bins import LARGEST, IntArray
from melfed.common.metrics.score_edges import SCORE_BINS
from melfed.common.tensors import group_of

OLD_EDGES: FloatArray = np.arange(-47, 48) / 6
"""Of histograms of 0.1: logits, the same for all models."""
OLD_EDGES.flags.writeable = False

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


@functools.cache
def _inverse_weights(name: str) -> FloatArray:
    """Return W⁻¹ of a class, shape (bins, bins), when it is asked for: to load LAPACK takes a tenth of a second."""
    inverse: FloatArray = np.linalg.inv(WEIGHTS[name] / _STEP).astype(np.float64)
    return inverse


def noise_variance(noise_multiplier: float) -> int:
    """Return what `noise_variance` a histogram states whose noise is σ times `SENSITIVITY`."""
    # Rounded up, so that the noise is never stated too small.
    return math.ceil((noise_multiplier * SENSITIVITY / SCALE) ** 2 / VARIANCE_UNIT)


@dataclass(frozen=True, eq=False)
class NoisyHistogram:
    """Measurements of one evaluation set with noise; ``a + b`` merges two sets, whose units must differ.

    Attributes:
        edges: ascending logits, shape (bins - 1,): bin b holds those in [edges[b-1], edges[b]). They follow from the
            released model (`melfed.common.metrics.score_edges`); there are `SCORE_BINS` bins, or in a histogram of 0.1
            fewer.
        positives: weighted running sums of melanomas, plus noise, grid units of 1/SCALE counts, shape (bins,).
        negatives: the same of the other images.
        noise_variance: variance of the noise of each measurement, units of 2^-30 squared counts, shape (1,).

    Raises:
        DataError: on construction, where an array has the wrong type or shape, or is beyond what data and noise give.
    """

    edges: FloatArray
    positives: IntArray
    negatives: IntArray
    noise_variance: IntArray

    def __post_init__(self) -> None:
        bins = self.edges.size + 1 if isinstance(self.edges, np.ndarray) else 0
        shapes = _SHAPES if bins != len(OLD_EDGES) + 1 else _OLD_SHAPES
        for field in fields(self):
            array, shape = getattr(self, field.name), shapes[field.name]
            dtype = np.dtype(np.float64 if field.name == "edges" else np.int64)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                article = "an" if dtype == np.int64 else "a"
                raise _refuse(f"{field.name} is not {article} {dtype} array of shape {shape}")
            frozen = array.copy()  # the caller's array stays the caller's
            frozen.flags.writeable = False
            object.__setattr__(self, field.name, frozen)
        # Written so that what is no number fails it.
        if not ((np.abs(self.edges) <= LARGEST).all() and (np.diff(self.edges) > 0).all()):
            raise _refuse("its edges are not ascending numbers")
        if not 0 <= self.noise_variance[0] <= _LARGEST_VARIANCE:
            raise _refuse(f"{self.noise_variance[0]} is no variance of noise")
        slack = REACH * self.noise_std * SCALE
        for name in ("positives", "negatives"):
            array = getattr(self, name)
            if (array < -slack).any() or (array > MAX_IMAGES * SCALE + slack).any():
                raise _refuse(f"{name} has an entry beyond what {MAX_IMAGES} patients and this noise can give")

    @classmethod
    def empty(cls, edges: FloatArray) -> Self:
        """The histogram of nobody, without noise: neutral in ``+`` with those of the same edges."""
        nobody = np.zeros(len(edges) + 1, np.int64)
        return cls(edges, nobody, nobody, np.zeros(1, np.int64))

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

    def to_arrays(self) -> dict[str, Counted]:
        """The arrays by name, as they travel: int64 but for the float64 edges, shapes as in the attributes."""
        return {name: getattr(self, name) for name in _SHAPES}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Sequence[float]]) -> Self:
        """Histogram from the lists of ``to_lists``, or from those of 0.1. Raises DataError as ``from_arrays``."""
        arrays = {name: _numbers(name, values) for name, values in lists.items()}
        return cls.from_arrays({"edges": OLD_EDGES, **arrays})

    def to_lists(self) -> dict[str, list[float]]:
        """The same as lists, for JSON."""
        return {name: array.tolist() for name, array in self.to_arrays().items()}

    def __add__(self, other: "NoisyHistogram") -> "NoisyHistogram":
        """Histogram of both sets together, with the noise of both; no unit may be in both. Raises as `pooled`."""
        return _noised_total([self, other])

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise of a measurement, in counts."""
        return math.sqrt(float(self.noise_variance[0]) * VARIANCE_UNIT)

    @property
    def largest(self) -> float:
        """Largest measurement, in counts: how many patients there are at least, but for the noise."""
        return max(float(self.positives.max()), float(self.negatives.max())) / SCALE

    def counts(self, name: str) -> FloatArray:
        """Return unbiased counts by bin of `positives` or `negatives`, shape (bins,); noise can make them < 0."""
        unbiased: FloatArray = self._inverse(name) @ (getattr(self, name) / SCALE)
        return unbiased

    def noise(self, name: str) -> FloatArray:
        """Return the covariance of the noise of these counts, shape (bins, bins)."""
        inverse = self._inverse(name)
        covariance: FloatArray = self.noise_std**2 * (inverse @ inverse.T)
        return covariance

    def _inverse(self, name: str) -> FloatArray:
        # Of triangular matrices, so that a smaller one and its inverse are the corners of the larger ones.
        bins = len(self.positives)
        return _inverse_weights(name)[:bins, :bins]


Histogram = ScoreHistogram | NoisyHistogram


def _shapes(bins: int) -> dict[str, tuple[int, ...]]:
    return {"edges": (bins - 1,), "positives": (bins,), "negatives": (bins,), "noise_variance": (1,)}


_SHAPES = _shapes(SCORE_BINS)
_OLD_SHAPES = _shapes(len(OLD_EDGES) + 1)


def histogram_from_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> Histogram:
    """Histogram from arrays that another party sent: noised where they say how much noise they have.

    Raises:
        DataError: they are neither kind of histogram.
    """
    return (NoisyHistogram if "noise_variance" in arrays else ScoreHistogram).from_arrays(arrays)


def histograms_from_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Histogram]:
    """Return histograms by cell from arrays named `CELL/ARRAY`, where a cell is named `ATTRIBUTE/NUMBER`.

    Raises:
        DataError: one is no histogram.
    """
    cells = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
    return {cell: histogram_from_arrays(group_of(cell, arrays)) for cell in cells}


def histogram_from_lists(lists: Mapping[str, Sequence[float]]) -> Histogram:
    """Histogram from the lists of `to_lists` of either kind. Raises DataError as ``histogram_from_arrays``."""
    return (NoisyHistogram if "noise_variance" in lists else ScoreHistogram).from_lists(lists)


def pooled(histograms: Iterable[Histogram]) -> Histogram:
    """Sum of histograms, all with noise or all without; without any: that of no image.

    It is checked as a whole, so that the order in which clinics answer does not decide whether there is a sum.

    Raises:
        DataError: some have noise and some do not, noised ones have different edges, or the sum is beyond what a
            histogram can hold.
    """
    every = list(histograms)
    noised = [h for h in every if isinstance(h, NoisyHistogram)]
    exact = [h for h in every if isinstance(h, ScoreHistogram)]
    if noised and exact:
        raise DataError(
            f"{len(noised)} of {len(every)} score histograms have noise and the others not; evaluate all in one way"
        )
    return _noised_total(noised) if noised else total(exact)


def plus(total: Histogram | None, histogram: Histogram | None) -> Histogram | None:
    """Sum of a total so far and one histogram more, where None is nothing; errors as those of `pooled`.

    One after another these give what `pooled` gives of all, in whatever order, at the cost of one addition each.
    """
    if total is None or histogram is None:
        return total if histogram is None else pooled([histogram])
    return pooled([total, histogram])


def _noised_total(histograms: Sequence[NoisyHistogram]) -> NoisyHistogram:
    edges = histograms[0].edges
    if not all(np.array_equal(h.edges, edges) for h in histograms):
        raise DataError(f"{len(histograms)} noised histograms have different score bins; evaluate one model")
    names = [name for name in _SHAPES if name != "edges"]
    stacks = {name: np.stack([getattr(h, name) for h in histograms]) for name in names}
    # Integers would overflow silently; floats do not.
    if any((np.abs(stack.sum(axis=0, dtype=np.float64)) > _LARGEST_SUM).any() for stack in stacks.values()):
        raise DataError(f"the sum of {len(histograms)} noised histograms is beyond what data and noise can give")
    return NoisyHistogram(edges, **{name: stack.sum(axis=0) for name, stack in stacks.items()})


def _numbers(name: str, values: Sequence[float]) -> Counted:
    try:
        array = np.array(values)
    except ValueError:
        array = np.array(None)
    if name == "edges" and array.dtype.kind in "if":
        return array.astype(np.float64)
    if array.dtype.kind != "i":  # numpy would cut fractions off
        raise _refuse(f"{name} is not a list of whole numbers")
    return array.astype(np.int64)


def _refuse(reason: str) -> DataError:
    return DataError(f"noised histogram: {reason}; it is damaged or was altered, ask its sender to evaluate again")
