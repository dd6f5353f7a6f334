"""Net benefit of calling an image a melanoma from a probability on: a decision curve.

At a threshold probability p, whoever calls images from p on melanomas says with it that one melanoma found is worth
(1 - p) / p false alarms. The net benefit is the share of images that are melanomas and called so, less the share of
false alarms in that exchange:

    net benefit(p) = TP(p) / n - FP(p) / n * p / (1 - p)

(Vickers & Elkin, Medical Decision Making 2006; 26:565-574). Calling all images melanomas and calling none are the two
ways to be compared with. It takes scores as probabilities: a model that is not calibrated has another curve.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from melfed.common.metrics.curves import shrinkage
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import Z95, FloatArray
from melfed.common.metrics.noisy import densities, deviations
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram

THRESHOLDS: Final[FloatArray] = np.arange(1, 51) / 100
"""Threshold probabilities of a decision curve."""
THRESHOLDS.flags.writeable = False


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit by threshold probability, arrays of one length, with pointwise 95 % limits.

    Empty where there is a class of images alone, or the noise hides one.

    Attributes:
        threshold: ascending, shape (n,).
        model: of calling images melanomas from the threshold on.
        low: lower limit of `model`.
        high: upper limit of it.
        everything: of calling all of them melanomas; that of calling none is 0.
    """

    threshold: FloatArray
    model: FloatArray
    low: FloatArray
    high: FloatArray
    everything: FloatArray


NOTHING: Final = DecisionCurve(*[np.zeros(0)] * 5)


def decision_curve(h: Histogram, thresholds: FloatArray = THRESHOLDS) -> DecisionCurve:
    """Return the decision curve of a histogram of either kind.

    The limits are those of a mean of independent images: one gains 1 by a melanoma that is called, loses p / (1 - p) by
    a false alarm, and else nothing. Images of one patient count as fewer (Kish's effective size). Noise and the fit of
    the densities come on top, by the delta method; thresholds beyond the outermost bins are left out there.

    Args:
        h: exact, of images, or noised, of the units that the study protects.
        thresholds: probabilities between 0 and 1, ascending.

    >>> h = ScoreHistogram.from_scores([-2.0, -1.0, 0.5, 2.0], [0, 0, 1, 1], "abcd")
    >>> curve = decision_curve(h, np.array([0.2, 0.5]))
    >>> curve.model.round(3).tolist(), curve.everything.round(3).tolist()
    ([0.438, 0.5], [0.375, 0.0])
    """
    return _noisy(h, thresholds) if isinstance(h, NoisyHistogram) else _exact(h, thresholds)


def _exact(h: ScoreHistogram, thresholds: FloatArray) -> DecisionCurve:
    totals = float(h.positives.sum()), float(h.negatives.sum())
    if not all(totals):
        return NOTHING
    logits = np.log(thresholds / (1 - thresholds))
    # A bin that a threshold divides counts in part, as if its scores were spread evenly.
    width = np.where(h.high > h.low, h.high - h.low, 1.0)
    called = np.where(h.high > h.low, np.clip((h.high - logits[:, None]) / width, 0, 1), h.low >= logits[:, None])
    hits, alarms = called @ h.positives.astype(np.float64), called @ h.negatives.astype(np.float64)
    return _curve(thresholds, hits, alarms, totals, sum(totals) * shrinkage(h), 0.0)


def _noisy(h: NoisyHistogram, thresholds: FloatArray) -> DecisionCurve:
    found = densities(h)
    if found is None:
        return NOTHING
    edges = found[0].edges
    logits = np.log(thresholds / (1 - thresholds))
    inside = (logits >= edges[0]) & (logits <= edges[-1])
    thresholds, logits = thresholds[inside], logits[inside]
    if not thresholds.size:
        return NOTHING
    odds = thresholds / (1 - thresholds)

    def measure(negatives: FloatArray, positives: FloatArray) -> FloatArray:
        hits, alarms = (_from(counts, edges, logits) for counts in (positives, negatives))
        whole = negatives.sum(-1, keepdims=True) + positives.sum(-1, keepdims=True)
        value: FloatArray = (hits - odds * alarms) / whole
        return value

    negatives, positives = (density.counts for density in found)
    totals = float(positives.sum()), float(negatives.sum())
    hits, alarms = _from(positives, edges, logits), _from(negatives, edges, logits)
    return _curve(thresholds, hits, alarms, totals, sum(totals), deviations(measure, found))


def _from(counts: FloatArray, edges: FloatArray, logits: FloatArray) -> FloatArray:
    """Return how many of a class score at least so much, shape (..., logits), counts shape (..., bins)."""
    above = np.cumsum(counts[..., ::-1], -1)[..., ::-1][..., 1:]  # at each edge
    place = np.clip(np.searchsorted(edges, logits, side="right") - 1, 0, len(edges) - 2)
    part = (logits - edges[place]) / (edges[place + 1] - edges[place])
    value: FloatArray = above[..., place] * (1 - part) + above[..., place + 1] * part
    return value


def _curve(
    thresholds: FloatArray,
    hits: FloatArray,
    alarms: FloatArray,
    totals: tuple[float, float],
    size: float,
    noise: FloatArray | float,
) -> DecisionCurve:
    """Return the curve of counts; `size` is of independent images, `noise` a standard deviation that comes on top."""
    whole, odds = sum(totals), thresholds / (1 - thresholds)
    model = (hits - odds * alarms) / whole
    variance = (hits + odds**2 * alarms) / whole - model**2
    reach = Z95 * np.hypot(np.sqrt(np.maximum(variance, 0) / max(size, 1.0)), noise)
    everything = (totals[0] - odds * totals[1]) / whole
    return DecisionCurve(thresholds, model, model - reach, model + reach, everything)
