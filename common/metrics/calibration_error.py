"""The calibration error: how far probabilities lie from shares of melanomas, of exact histograms and of noised ones.

It is the root of the mean squared gap, sqrt(Σ w (mean probability - share of melanomas)²) over groups of images with
similar scores, w being their shares of all: 0 is best, and by Jensen's inequality it is at least the expected
calibration error (the mean absolute gap) over the same groups. The square is what can be had without bias: a squared
gap is too large by the gap's variance, on average, so that a calibrated model would seem to be off by its sampling
error, and under noise by much more. That variance is known, of sampling and of noise, and is taken off (the debiased
estimator of Kumar, Liang & Ma, "Verified Uncertainty Calibration", NeurIPS 2019, section 5, to whose variance of
sampling that of the noise is added). A mean absolute gap has no such correction.

The interval is of all errors that the sum of squared gaps does not speak against: a quadratic form of normal gaps,
taken for a scaled χ² of its mean and its variance (Patnaik, Biometrika 1949; 36:202-232), tested at 2.5 % on either
side. It begins at 0 where calibrated probabilities would do as well.

As of any grouping, what cancels out within a group is not seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from melfed.common.metrics.class_counts import ClassCounts
from melfed.common.metrics.intervals import FloatArray, Interval, proportion_interval

Probability = Callable[[FloatArray], FloatArray]

_TAIL = 0.025
_BISECTIONS = 60


@dataclass(frozen=True)
class _SquaredGaps:
    """The sum of squared weighted gaps, and how it spreads around its mean.

    Attributes:
        found: the sum.
        bias: by how much its mean is above the squared error: the trace of the covariance of the weighted gaps.
        spread: its variance were there no gaps: twice the sum of that matrix's squared entries.
        slope: how much more variance it has, in parts of the squared error.
    """

    found: float
    bias: float
    spread: float
    slope: float

    def below(self, error: float, found: float) -> float:
        """Return how probable a sum is that is at most `found`, were this the error."""
        from scipy.special import gammainc

        mean, variance = error**2 + self.bias, self.spread + self.slope * error**2
        return float(gammainc(mean**2 / variance, found * mean / variance))


def calibration_error(counts: ClassCounts, probability: Probability, members: FloatArray) -> Interval:
    """Return the calibration error, debiased, with its 95 % interval.

    Args:
        counts: of both classes by score bin.
        probability: from logits to probabilities, of the same shape.
        members: which bins are in which group, shape (bins, groups), each bin in one and no group without images.
    """
    p = probability(counts.places).mean(axis=1)
    totals = (counts.smooth[0] + counts.smooth[1]) @ members
    root = np.sqrt(totals / totals.sum())
    gaps = (counts.negatives * p - counts.positives * (1 - p)) @ members / totals
    # What a group's size is uncertain by matters to a gap that is not 0.
    sampling, noise = counts.covariance((p[:, None] - gaps) * members, (p[:, None] - 1 - gaps) * members)
    squared = _squared(root * gaps, (sampling + noise) * np.outer(root / totals, root / totals))
    error = math.sqrt(max(squared.found - squared.bias, 0.0))
    reach = math.sqrt(float(((root / totals * (_within(counts, probability) @ members)) ** 2).sum()))
    low, high = _limits(squared, error)
    return proportion_interval(min(error, 1.0), low - reach, high + reach)


def _squared(gaps: FloatArray, covariance: FloatArray) -> _SquaredGaps:
    found = float(gaps @ gaps)
    towards = float(gaps @ covariance @ gaps) / found if found else 0.0
    return _SquaredGaps(found, float(np.trace(covariance)), 2 * float((covariance**2).sum()), 4 * towards)


def _limits(squared: _SquaredGaps, error: float) -> tuple[float, float]:
    """Return the errors at which the sum found is just large enough, and just small enough."""
    if not squared.spread > 0:
        return error, error
    # A sum that is small by chance, below what sampling and noise make of no gap, is no evidence of less than none.
    least = max(squared.found, squared.bias)
    return (
        _first(lambda one: squared.below(one, squared.found) <= 1 - _TAIL),
        _first(lambda one: squared.below(one, least) <= _TAIL),
    )


def _first(holds: Callable[[float], bool]) -> float:
    """Return the least error, at most 1, from which on something holds."""
    low, high = 0.0, 1.0
    if holds(low):
        return low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _within(counts: ClassCounts, probability: Probability) -> FloatArray:
    """Return how far the order within each bin may shift its sum of probabilities, shape (bins,)."""
    images = counts.smooth[0] + counts.smooth[1]
    if counts.places.shape[1] > 1:
        # Bins that images are spread over: as if all of them lay in the middle instead.
        middle = probability(counts.places.mean(axis=1))
        shifted: FloatArray = np.abs(images * (probability(counts.places).mean(axis=1) - middle))
        return shifted
    return images * (probability(counts.high) - probability(counts.low)) / 2
