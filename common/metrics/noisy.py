"""Metrics and curves of histograms with noise, with 95 % intervals; and of either kind of histogram.

From the noisy counts a smooth density of each class is fitted (`melfed.common.metrics.density_fit`), and every metric
is that of the two densities. An interval is on the logit scale and has the width that the delta method gives to three
things:

- sampling error: counts vary as Poisson's law says. Units have weights of at most 1, so this is never too little;
- noise, whose variance is known. It counts double: how smooth a density is remains a guess, and a guess of too smooth
  a one errs by about as much as the noise does (in simulation with σ = 4 the plain variance covered 0.85 instead of
  0.95 for the AUROC);
- binning: half of the share of pairs that have both scores in one bin, as if their order were the worst, or the best;
  it dominates where a model gives nearly one score to all.

Near 0 and 1 the delta method gives no width; there the closed-form limits of exact counts
(`melfed.common.metrics.intervals`) hold.

A metric is undefined (None) where the total of either class is not above three standard deviations of its noise, or
below one unit. Brier score and calibration are in `melfed.common.metrics.calibration`. A noised evaluation set counts
every unit once, so what it gives as its images and patients is its units, and as its melanomas those units that have
one.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from melfed.common.metrics.curves import PrecisionRecallCurve, RocCurve, pr_curve, roc_curve
from melfed.common.metrics.density_fit import Density, exp_counts, fit_density
from melfed.common.metrics.exact import EvaluationMetrics, histogram_metrics
from melfed.common.metrics.histogram import sigmoid
from melfed.common.metrics.intervals import (
    UNDEFINED,
    Z95,
    FloatArray,
    Interval,
    boyd_auprc,
    newcombe_auroc,
    proportion_interval,
    square_and_add,
    wilson,
)
from melfed.common.metrics.noisy_focus import CLASSES, Focus, focus
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram, noise_variance
from melfed.common.metrics.score_edges import SCORE_BINS, edges_around

SURE = 3.0
"""Standard deviations of noise that a class must have."""
GUESS = 2.0
"""What the variance of the noise counts."""
_WITHIN = (0.125, 0.375, 0.625, 0.875)
"""Points within a bin at which precision is taken."""
_RATES = (0.10, 0.05)
_NAMES = ("auroc", "auprc", "balanced_accuracy", "sensitivity_at_90_specificity", "sensitivity_at_95_specificity")
_NUDGE = 1e-4
_INNERMOST = 1e-3
"""Nearest to 0 and 1 at which a logit is taken."""

Densities = tuple[Density, Density]
Limits = tuple[FloatArray, FloatArray]
Measure = Callable[[FloatArray, FloatArray], FloatArray]


def metrics_of(h: Histogram) -> EvaluationMetrics:
    """Metrics of a histogram of either kind."""
    return noisy_metrics(h) if isinstance(h, NoisyHistogram) else histogram_metrics(h)


def share_called(h: Histogram) -> float | None:
    """Return the share of all images (or units) that score 0.5 or more; None where nobody knows."""
    if isinstance(h, NoisyHistogram):
        found = densities(h)
        if found is None:
            return None
        units = found[0].counts + found[1].counts
        return min(1.0, float(units[_called(found[0].edges) :].sum() / units.sum()))  # sums are rounded
    counts = h.positives + h.negatives
    return float(counts[h.low >= 0].sum() / counts.sum()) if counts.any() else None


def roc_of(h: Histogram) -> RocCurve:
    """ROC curve of a histogram of either kind."""
    return noisy_roc_curve(h) if isinstance(h, NoisyHistogram) else roc_curve(h)


def pr_of(h: Histogram) -> PrecisionRecallCurve:
    """Precision-recall curve of a histogram of either kind."""
    return noisy_pr_curve(h) if isinstance(h, NoisyHistogram) else pr_curve(h)


def units_needed(noise_multiplier: float, sets: int) -> int:
    """Return how many units each class needs, about, for its metrics to be defined when so many sets are pooled."""
    nothing = np.zeros(SCORE_BINS, np.int64)
    one = NoisyHistogram(edges_around(0.0, 1.0), nothing, nothing, np.array([noise_variance(noise_multiplier)]))
    return max(1, math.ceil(SURE * math.sqrt(sets * float(one.noise("positives").sum()))))


@lru_cache(maxsize=8)  # one histogram has many metrics; it is the same one as long as it is the same object
def densities(h: NoisyHistogram) -> Densities | None:
    """Fitted densities of negatives and positives over the score bins, or None where the noise hides a class."""
    totals = [(float(h.counts(name).sum()), float(h.noise(name).sum()) ** 0.5) for name in ("negatives", "positives")]
    if any(total < 1 or total <= SURE * deviation for total, deviation in totals):
        return None
    return _fitted(focus(h))


def _fitted(near: Focus) -> Densities:
    negatives, positives = (fit_density(near.counts[name], near.noise[name], near.edges) for name in CLASSES)
    return negatives, positives


def noisy_metrics(h: NoisyHistogram) -> EvaluationMetrics:
    """Metrics of a (merged) histogram with noise; see the module for what they and their intervals mean."""
    fields: dict[str, object] = dict.fromkeys(_NAMES, UNDEFINED)
    fields |= {"threshold_at_90_specificity": None, "threshold_at_95_specificity": None, "brier": None, "ece": None}
    found = densities(h)
    if found is None:
        totals = [max(0.0, float(h.counts(name).sum())) for name in ("negatives", "positives")]
    else:
        # Without noise the counts themselves are known, and the densities serve the intervals alone.
        negatives, positives = _known_counts(h, found)
        totals = [float(negatives.sum()), float(positives.sum())]
        edges = found[0].edges
        called = _called(edges)
        five = partial(_five, called=called)
        values = five(negatives, positives)
        low, high = widened(
            values, deviations(five, found), _sampling(values, negatives, positives, called), _binning(found)
        )
        fields |= {name: _interval(*limits) for name, *limits in zip(_NAMES, values, low, high, strict=True)}
        for rate in _RATES:
            fields[f"threshold_at_{round(100 - 100 * rate)}_specificity"] = _threshold(negatives, rate, edges)
    units, melanomas = round(totals[0] + totals[1]), round(totals[1])
    return EvaluationMetrics.model_validate(fields | {"images": units, "melanomas": melanomas, "patients": units})


def noisy_roc_curve(h: NoisyHistogram) -> RocCurve:
    """ROC curve of the fitted densities: monotone, with bin edges as thresholds. Empty where they are undefined.

    The band is that of the sensitivity at a fixed threshold.
    """
    found = densities(h)
    if found is None:
        return RocCurve(*[np.zeros(0)] * 4)
    negatives, positives = (density.counts for density in found)
    value = _shares(positives)
    deviation = deviations(lambda _, p: _shares(p), found)
    return RocCurve(_shares(negatives), value, *widened(value, deviation, wilson(value, positives.sum())))


def noisy_pr_curve(h: NoisyHistogram) -> PrecisionRecallCurve:
    """Precision-recall curve of the fitted densities, with bin edges as thresholds. Empty where they are undefined.

    Recall is monotone; the band is that of the precision at a fixed threshold.
    """
    found = densities(h)
    if found is None:
        return PrecisionRecallCurve(*[np.zeros(0)] * 4)
    negatives, positives = (density.counts for density in found)
    value = _precisions(negatives, positives)
    sampling = wilson(value, np.cumsum((negatives + positives)[::-1]))
    band = widened(value, deviations(_precisions, found), sampling)
    return PrecisionRecallCurve(_shares(positives)[1:], value, *band)


def _known_counts(h: NoisyHistogram, found: Densities) -> tuple[FloatArray, FloatArray]:
    if h.noise_variance[0]:
        return found[0].counts, found[1].counts
    counts = focus(h).counts
    return np.maximum(counts["negatives"], 0.0), np.maximum(counts["positives"], 0.0)


def _interval(value: float, low: float, high: float) -> Interval:
    return proportion_interval(min(1.0, max(0.0, float(value))), float(low), float(high))


def widened(
    values: FloatArray, deviations: FloatArray, sampling: Limits, binning: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Limits on the logit scale, the binning's reach beside that of the deviations; at least those of exact counts."""
    inside = values.clip(_INNERMOST, 1 - _INNERMOST)
    centre = np.log(inside / (1 - inside))
    half = np.hypot(Z95 * deviations, binning) / (inside * (1 - inside))
    low, high = (1 / (1 + np.exp(np.clip(-end, -500.0, 500.0))) for end in (centre - half, centre + half))
    return np.minimum.reduce([low, sampling[0], values]), np.maximum.reduce([high, sampling[1], values])


def _called(edges: FloatArray) -> int:
    """Return the lowest bin that is called melanoma: of those at or above logit 0.

    That is an edge, unless it lies beyond the outermost ones: then the bin that it is in counts as below it.
    """
    return int(np.searchsorted(edges, 0.0)) + 1


def _sampling(values: FloatArray, negatives: FloatArray, positives: FloatArray, called: int) -> Limits:
    """Closed-form limits of the metrics in the order of `_NAMES`, had the counts no noise and each unit one image."""
    auroc, auprc, accuracy, *sensitivities = values.clip(0, 1).tolist()
    sizes = (float(positives.sum()), float(negatives.sum()))
    hits = positives[called:].sum() / sizes[0], negatives[:called].sum() / sizes[1]
    reaches = []
    for proportion, size in zip(hits, sizes, strict=True):
        low, high = wilson(proportion, size)
        reaches.append((float(proportion - low) / 2, float(high - proportion) / 2))
    limits = [
        newcombe_auroc(auroc, *sizes),
        boyd_auprc(auprc, sizes[0]),
        square_and_add(accuracy, *reaches),
        *(tuple(map(float, wilson(value, sizes[0]))) for value in sensitivities),
    ]
    low, high = np.array(limits).T
    return low, high


def _binning(found: Densities) -> float:
    """How far the order within the bins may shift a metric, about."""
    negatives, positives = (density.counts / density.counts.sum() for density in found)
    return float(negatives @ positives) / 2


def deviations(measure: Measure, found: Densities) -> FloatArray:
    """Standard deviations of what `measure` makes of the two densities, by the delta method."""
    counts = [density.counts for density in found]
    variance = np.zeros(1)
    for place, density in enumerate(found):
        above, below = (
            measure(*[_nudged(density, sign) if i == place else counts[i] for i in (0, 1)]) for sign in (1, -1)
        )
        # A measure of one density alone has no row a bin of the other.
        slopes = np.broadcast_to((above - below) / (2 * _NUDGE), (len(density.log_counts), above.shape[-1]))
        whole, exact = (
            np.einsum("bv,bv->v", slopes, np.linalg.solve(precision, slopes))
            for precision in (density.precision, density.exact_precision)
        )
        variance = variance + exact + GUESS * np.maximum(whole - exact, 0.0)
    found_deviations: FloatArray = np.sqrt(variance)
    return found_deviations


def _nudged(density: Density, sign: int) -> FloatArray:
    """Counts with the logarithm of one of them moved a little, one a row, shape (bins, bins)."""
    return exp_counts(density.log_counts + sign * _NUDGE * np.eye(len(density.log_counts)))


def _five(negatives: FloatArray, positives: FloatArray, *, called: int) -> FloatArray:
    """Metrics in the order of `_NAMES`, shape (..., 5), from counts (..., bins); bins from `called` on are positive."""
    n, p = (counts.copy() for counts in np.broadcast_arrays(negatives[..., ::-1], positives[..., ::-1]))
    n, p = n / n.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    fp, tp = np.cumsum(n, -1), np.cumsum(p, -1)
    auroc = (p * (1 - fp + n / 2)).sum(-1)
    # Scores are spread evenly over their bin: precision is averaged over its melanomas.
    odds = negatives.sum(-1) / positives.sum(-1)
    passed = [(tp - p * (1 - part), fp - n * (1 - part)) for part in _WITHIN]
    precision = sum(hits / np.maximum(hits + odds[..., None] * alarms, 1e-300) for hits, alarms in passed) / len(passed)
    bins = n.shape[-1]
    accuracy = (p[..., : bins - called].sum(-1) + n[..., bins - called :].sum(-1)) / 2
    return np.stack([auroc, (p * precision).sum(-1), accuracy, *(_sensitivity(fp, tp, rate) for rate in _RATES)], -1)


def _sensitivity(fp: FloatArray, tp: FloatArray, rate: float) -> FloatArray:
    """Sensitivity at a rate of false alarms, shape (...), on the straight lines between bin edges."""
    start = np.zeros((*fp.shape[:-1], 1))
    alarms, found = np.concatenate((start, fp), -1), np.concatenate((start, tp), -1)
    last = np.clip((alarms <= rate).sum(-1, keepdims=True) - 1, 0, fp.shape[-1] - 1)
    (a0, a1), (s0, s1) = ([np.take_along_axis(x, last + i, -1)[..., 0] for i in (0, 1)] for x in (alarms, found))
    value: FloatArray = s0 + (s1 - s0) * (rate - a0) / np.maximum(a1 - a0, 1e-300)
    return value


def _threshold(negatives: FloatArray, rate: float, edges: FloatArray) -> float:
    """Probability from which on to call a melanoma for a rate of false alarms."""
    alarms = _shares(negatives)[1:-1]  # at the edges, from the highest down
    return float(sigmoid(np.interp(rate, alarms, edges[::-1])))


def _shares(counts: FloatArray) -> FloatArray:
    """Share of a class in the highest 0, 1, ... bins, shape (..., bins + 1), from 0 to 1 and never falling."""
    called = np.cumsum(counts[..., ::-1], -1)
    shares = np.concatenate((np.zeros((*counts.shape[:-1], 1)), called / called[..., -1:]), -1)
    capped: FloatArray = np.minimum(shares, 1.0)
    return capped


def _precisions(negatives: FloatArray, positives: FloatArray) -> FloatArray:
    """Precision with the highest 1, 2, ... bins called melanomas, shape (..., bins)."""
    hits, alarms = (np.cumsum(counts[..., ::-1], -1) for counts in (positives, negatives))
    precisions: FloatArray = hits / (hits + alarms)
    return precisions
