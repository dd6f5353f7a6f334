"""How well probabilities are calibrated, with 95 % intervals: from exact histograms, and from noised ones.

Brier score: mean of (p - target)². Slope and intercept: those of a logistic regression of the target on the logit of p
(Cox, Biometrika 1958; 45:562-565); the slope of a calibrated model is 1 (below 1: its probabilities are too extreme),
and its intercept at slope 1, calibration in the large, is 0 (below 0: they are too high). Calibration error: the root
of the mean squared gap between probability and share of melanomas, over the groups of the curve, without the part that
sampling and noise have in it (`melfed.common.metrics.calibration_error`). They are undefined where a class is absent or
hidden by the noise, and the slope where the scores separate the classes.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict

from melfed.common.metrics.calibration_error import calibration_error
from melfed.common.metrics.calibration_map import Calibration
from melfed.common.metrics.class_counts import ClassCounts, Uncertain, class_counts, melanomas_to_show
from melfed.common.metrics.curves import CalibrationCurve
from melfed.common.metrics.histogram import sigmoid
from melfed.common.metrics.intervals import UNDEFINED, FloatArray, Interval, wilson
from melfed.common.metrics.logistic import Logistic, fit_logistic, line
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram

GROUPS, NOISED_GROUPS = 10, 5
"""Points of a curve."""
PRECISE = 0.2
"""Half-width of the slope's interval that the number of melanomas that are needed is for."""
_NOTHING = 1e-9
"""Share of all images below which a group has none: fitted counts are rarely quite zero."""


class CalibrationMetrics(BaseModel):
    """How calibrated a model's probabilities are.

    `melanomas_needed` says with how many the slope would be known to 0.2 (or, where the noise hides it, would show at
    all), about; None where it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    brier: Interval = UNDEFINED
    slope: Interval = UNDEFINED
    in_the_large: Interval = UNDEFINED
    calibration_error: Interval = UNDEFINED
    melanomas_needed: int | None = None


def calibration_metrics(h: Histogram, map_: Calibration | None = None) -> CalibrationMetrics:
    """Return how calibrated the probabilities of a histogram are.

    Args:
        h: of the logits, as they left the clinics.
        map_: from these to the probabilities; None: their sigmoid.
    """
    counts = class_counts(h)
    if counts is None:
        shown = melanomas_to_show(h)
        return CalibrationMetrics(brier=_one_class(h, map_), melanomas_needed=shown if shown > 1 else None)
    logits = _mapped(counts.places, map_)
    slope: tuple[Interval, int | None] = UNDEFINED, None
    if (fit := _line(counts, logits)) is not None:
        slope = _slope(fit, counts)
    shift = fit_logistic(counts, np.ones((*logits.shape, 1)), logits)
    large = UNDEFINED if shift is None else _uncertain(shift, 0).interval()
    return CalibrationMetrics(
        brier=_brier(counts, map_),
        slope=slope[0],
        in_the_large=large,
        calibration_error=calibration_error(
            counts, lambda places: sigmoid(_mapped(places, map_)), _groups_of(h, counts)
        ),
        melanomas_needed=slope[1],
    )


def calibrated_curve(h: Histogram, map_: Calibration | None = None) -> CalibrationCurve:
    """Return the observed share of melanomas against the mean probability, in groups of about as many melanomas.

    Empty where a class is absent or hidden; arguments as of `calibration_metrics`. Bands are on the logit scale.
    """
    counts = class_counts(h)
    if counts is None:
        return CalibrationCurve(*[np.zeros(0)] * 5)
    p = sigmoid(_mapped(counts.places, map_)).mean(axis=1)
    members = _groups_of(h, counts)
    totals, expected = ((counts.smooth[0] + counts.smooth[1]) @ members, counts.smooth[1] @ members)
    share = expected / totals
    # Of smooth totals, which are far from 0; what the counts themselves say beyond the smooth share is added to it.
    observed = share + (counts.positives @ members - share * ((counts.negatives + counts.positives) @ members)) / totals
    slopes = -members * share / totals, members * (1 - share) / totals
    sampling, noise = (np.diagonal(each) for each in counts.covariance(*slopes))
    ratio = min(size / each.sum() for size, each in zip(counts.sizes, counts.smooth, strict=True))
    least = wilson(observed.clip(0, 1), totals * ratio)
    bands = [
        Uncertain(*map(float, each[:3])).proportion((float(each[3]), float(each[4])))
        for each in zip(observed, sampling, noise, *least, strict=True)
    ]
    values, low, high = (np.array([getattr(band, end) for band in bands]) for end in ("value", "low", "high"))
    return CalibrationCurve(((counts.smooth[0] + counts.smooth[1]) * p) @ members / totals, values, low, high, totals)


def _mapped(places: FloatArray, map_: Calibration | None) -> FloatArray:
    return places if map_ is None else map_.logit(places)


def _uncertain(fit: Logistic, place: int) -> Uncertain:
    sampling, noise = (float(each[place, place]) for each in (fit.sampling, fit.noise))
    return Uncertain(float(fit.coefficients[place]), sampling, noise)


def _line(counts: ClassCounts, logits: FloatArray) -> Logistic | None:
    """Fit intercept and slope of the logits, in units of their own spread."""
    whole = (counts.smooth[0] + counts.smooth[1])[:, None] / logits.shape[1]
    unit = float(np.sqrt((whole * logits**2).sum() / whole.sum()))
    if not 0 < unit < np.inf:
        return None
    fit = fit_logistic(counts, line(logits / unit))
    if fit is None:
        return None
    back = np.diag([1.0, 1 / unit])
    return Logistic(back @ fit.coefficients, back @ fit.sampling @ back, back @ fit.noise @ back)


def _slope(fit: Logistic, counts: ClassCounts) -> tuple[Interval, int | None]:
    slope = _uncertain(fit, 1)
    if slope.value <= slope.deviation:
        return slope.interval(), None  # of what may be nothing, no number is enough
    needed = slope.needed(PRECISE * slope.value, counts.sizes[1])
    return slope.interval(), needed if needed > counts.sizes[1] else None


def _brier(counts: ClassCounts, map_: Calibration | None) -> Interval:
    p = sigmoid(_mapped(counts.places, map_))
    of_negatives, of_positives = (p**2).mean(axis=1), ((1 - p) ** 2).mean(axis=1)
    whole = float((counts.negatives + counts.positives).sum())
    value = float(counts.negatives @ of_negatives + counts.positives @ of_positives) / whole
    slopes = [((each - value) / whole)[:, None] for each in (of_negatives, of_positives)]
    sampling, noise = counts.covariance(*slopes)
    reach = _brier_reach(counts, map_, value) / whole
    return Uncertain(value, float(sampling[0, 0]), float(noise[0, 0])).proportion(reach=reach)


def _brier_reach(counts: ClassCounts, map_: Calibration | None, value: float) -> float:
    """Return how far the order within the bins may shift the sum of squared errors."""
    if counts.places.shape[1] > 1:
        # Bins that images are spread over: as if all of them lay in the middle instead.
        p = sigmoid(_mapped(counts.places.mean(axis=1), map_))
        middle = float(counts.negatives @ p**2 + counts.positives @ (1 - p) ** 2)
        return abs(middle - value * float((counts.negatives + counts.positives).sum()))
    low, high = (sigmoid(_mapped(end, map_)) for end in (counts.low, counts.high))
    worst = counts.negatives @ high**2 + counts.positives @ (1 - low) ** 2
    best = counts.negatives @ low**2 + counts.positives @ (1 - high) ** 2
    return float(worst - best) / 2


def _one_class(h: Histogram, map_: Calibration | None) -> Interval:
    """Return the Brier score of an exact histogram of one class; it needs no other."""
    if isinstance(h, NoisyHistogram) or not h.images:
        return UNDEFINED
    p = sigmoid(_mapped(h.middle, map_))
    errors = np.where(h.positives > 0, 1 - p, p) ** 2
    counts = h.positives + h.negatives
    value = float(errors @ counts / counts.sum())
    variance = float(counts @ (errors - value) ** 2 / counts.sum() / max(h.effective_sizes))
    return Uncertain(value, variance, 0.0).proportion()


def _groups_of(h: Histogram, counts: ClassCounts) -> FloatArray:
    """Return which bins are in which group, shape (bins, groups): about as many of both classes in each, none empty."""
    most = NOISED_GROUPS if isinstance(h, NoisyHistogram) else GROUPS
    share = counts.smooth[0] / counts.smooth[0].sum() + counts.smooth[1] / counts.smooth[1].sum()
    before = np.cumsum(share) - share / 2
    group = np.minimum((before * most / 2).astype(np.int64), most - 1)
    # Bins without images, as at either end, would be groups of their own: they join the next one that has some.
    some = np.flatnonzero(np.bincount(group, share) > _NOTHING * share.sum())
    joined = np.minimum(np.searchsorted(some, group), len(some) - 1)
    members: FloatArray = (joined[:, None] == np.arange(len(some))).astype(np.float64)
    return members
