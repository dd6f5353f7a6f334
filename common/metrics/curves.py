"""Curves for the report, each with pointwise 95 % bands (Wilson's interval at Kish's effective sample size)."""

from dataclasses import dataclass

import numpy as np

from melfed.common.metrics.histogram import UNIT, ScoreHistogram
from melfed.common.metrics.intervals import FloatArray, wilson

CURVE_POINTS = 200


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Sensitivity against false positive rate, from (0, 0) to (1, 1); arrays of one length <= 200.

    Empty where one class is absent. The band is that of the sensitivity at a fixed threshold.
    """

    false_positive_rate: FloatArray
    sensitivity: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precision against recall, recall ascending; arrays of one length <= 200. Empty where one class is absent."""

    recall: FloatArray
    precision: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Observed melanoma rate against mean predicted probability; one entry for each of 15 bins that has images."""

    mean_predicted: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray
    counts: FloatArray


def roc_curve(h: ScoreHistogram) -> RocCurve:
    """The ROC curve with bin edges as thresholds."""
    tp, fp = _cumulative(h)
    if not (tp[-1] and fp[-1]):
        return RocCurve(*[np.zeros(0)] * 4)
    keep = _thinned(fp / fp[-1], tp / tp[-1])
    sensitivity = tp[keep] / tp[-1]
    return RocCurve(fp[keep] / fp[-1], sensitivity, *wilson(sensitivity, h.effective_sizes[1]))


def pr_curve(h: ScoreHistogram) -> PrecisionRecallCurve:
    """The precision-recall curve with bin edges as thresholds, without interpolation."""
    tp, fp = _cumulative(h)
    if not (tp[-1] and fp[-1]):
        return PrecisionRecallCurve(*[np.zeros(0)] * 4)
    called = tp + fp
    tp, called = tp[called > 0], called[called > 0]
    keep = _thinned(tp / tp[-1], tp / called)
    precision = tp[keep] / called[keep]
    return PrecisionRecallCurve(tp[keep] / tp[-1], precision, *wilson(precision, called[keep] * shrinkage(h)))


def calibration_curve(h: ScoreHistogram) -> CalibrationCurve:
    """The reliability curve; exact, as its bins are kept beside the score bins."""
    filled = h.calibration_counts > 0
    counts = h.calibration_counts[filled].astype(np.float64)
    observed = h.calibration_positives[filled] / counts
    low, high = wilson(observed, counts * shrinkage(h))
    return CalibrationCurve(h.calibration_sums[filled] * UNIT / counts, observed, low, high, counts)


def _cumulative(h: ScoreHistogram) -> tuple[FloatArray, FloatArray]:
    """Melanomas and others in the highest 0, 1, ... bins, shape (bins + 1,), bins in the order of their middles."""
    order = np.argsort(-h.middle, kind="stable")
    # Bins of several clinics can have one middle; their images are then called melanomas together.
    last = np.diff(-h.middle[order], append=np.inf) > 0
    tp, fp = (np.concatenate(([0.0], np.cumsum(counts[order])[last])) for counts in (h.positives, h.negatives))
    return tp, fp


def shrinkage(h: ScoreHistogram) -> float:
    """Independent images per image where both classes mix: that of the more clustered class."""
    totals = (h.negatives.sum(), h.positives.sum())
    return min((size / total for size, total in zip(h.effective_sizes, totals, strict=True) if total), default=1.0)


def _thinned(x: FloatArray, y: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of at most ``CURVE_POINTS`` points, evenly spaced along the curve, its ends included."""
    length = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))))
    wanted = np.linspace(0.0, length[-1], CURVE_POINTS)
    return np.unique(np.searchsorted(length, wanted).clip(max=len(length) - 1)).astype(np.int64)
