"""Bins of logits that follow the scores: as narrow as they lie close, however far apart, and wherever, they are.

A logit is known to 46 binary digits, relative to itself: equal ones stay equal, whatever order of additions they come
from. A bin holds the logits in [low, high], on one side of 0, which is the threshold of a decision. As long as there
are no more different logits than bins, each has a bin of its own with low = high, and every metric of the counts is
that of the scores. Of more, neighbours share a bin, such that each bin has about as much of both classes: of P
melanomas and N others less than 2 P / (bins - 1) and 2 N / (bins - 1), besides images of one single logit. The ends of
such a bin lie on a grid of a power of two.

So bins cost the AUROC at most half of the share of pairs, one of each class, that lie in bins that overlap. For one
clinic with B + 1 bins that is less than (1/2) (2/B) = 1/B. Of two clinics (of more, pooled, it is the mean over pairs
of clinics), a bin of the one overlaps bins of the other that lie inside it and in no other, and at most two besides:
less than (1/2) (2 · 2/B + 2/B) = 3/B. With 4,096 bins that is 0.0008.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from melfed.common.metrics.intervals import FloatArray

IntArray = npt.NDArray[np.int64]

MOST_BINS = 4096
"""Of one evaluation set, whatever a policy allows."""
LARGEST = 2.0**200
"""Logits beyond it are taken for it; those nearer to 0 than 1 over it for 0, or from below for minus that."""
DIGITS = 46
"""Binary ones, of a logit."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Melanomas and other images by bin, in the order of (low, high); arrays of one length."""

    low: FloatArray
    high: FloatArray
    positives: IntArray
    negatives: IntArray


def known(logits: FloatArray) -> FloatArray:
    """Return logits, finite or infinite, as bins know them; what is no number stays none."""
    bounded = np.clip(logits, -LARGEST, LARGEST)
    near = np.where(bounded < 0, -1 / LARGEST, 0.0)
    mantissa, exponent = np.frexp(np.where(np.abs(bounded) < 1 / LARGEST, near, bounded))
    rounded: FloatArray = np.ldexp(np.rint(np.ldexp(mantissa, DIGITS)), exponent - DIGITS)
    return rounded


def bins_of(logits: FloatArray, positive: npt.NDArray[np.bool_], most: int) -> Bins:
    """Return the bins of one evaluation set.

    Args:
        logits: shape (images,).
        positive: which images are melanomas, shape (images,).
        most: how many bins there may be, at least 2.
    """
    values, place = np.unique(known(logits), return_inverse=True)
    counts = [np.bincount(place[chosen], minlength=len(values)) for chosen in (positive, ~positive)]
    exact = condensed(Bins(values, values, *counts), most)
    low, high = _rounded(exact.low, exact.high)
    return Bins(low, high, exact.positives, exact.negatives)


def merged(low: FloatArray, high: FloatArray, positives: IntArray, negatives: IntArray) -> Bins:
    """Return bins in their order, equal ones as one: whatever order they come in, the result is the same."""
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    first = np.ones(len(low), np.bool_)
    first[1:] = (np.diff(low) > 0) | (np.diff(high) > 0)
    start = np.flatnonzero(first)
    sums = [np.add.reduceat(counts[order], start) if len(start) else counts for counts in (positives, negatives)]
    return Bins(low[start], high[start], *sums)


def condensed(bins: Bins, most: int) -> Bins:
    """Return the same images in at most so many bins (at least 2): of equal shares of both classes, split at 0."""
    if len(bins.low) <= most:
        return bins
    order = np.argsort(bins.low / 2 + bins.high / 2, kind="stable")
    counts = [values[order] for values in (bins.positives, bins.negatives)]
    share = sum(values / max(values.sum(), 1) for values in counts)
    before = np.cumsum(share) - share
    quantile = np.minimum((before * (most - 1) / share.sum()).astype(np.int64), most - 2)
    low, high = bins.low[order], bins.high[order]
    start = np.flatnonzero(np.diff(quantile * 2 + (low >= 0), prepend=-1))
    joined = [np.add.reduceat(values, start) for values in counts]
    return merged(np.minimum.reduceat(low, start), np.maximum.reduceat(high, start), *joined)


def _rounded(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Move the ends of shared bins outwards to multiples of a power of two: disjoint still, and on their side of 0."""
    gaps = low[1:] - high[:-1]
    before, after = np.concatenate(([LARGEST], gaps)), np.concatenate((gaps, [LARGEST]))
    # At most a quarter of the bin, and of the distance to the next one; and below 0 nothing is rounded up to 0.
    step = np.minimum.reduce([high - low, before[: len(low)], after[: len(low)], np.abs(high)]) / 4
    shared = high > low
    exponent = np.frexp(np.where(shared, step, 1.0))[1] - 1
    down = np.ldexp(np.floor(np.ldexp(low, -exponent)), exponent)
    up = np.ldexp(np.ceil(np.ldexp(high, -exponent)), exponent)
    return np.where(shared, down, low) + 0.0, np.where(shared, up, high) + 0.0  # without a negative 0
