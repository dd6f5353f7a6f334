"""Operating points: thresholds that validation scores are to give a sensitivity or a specificity by, and what they do.

A threshold is chosen where the validation scores have what was asked for. What the point really has is uncertain: by
the sampling of the validation part, and by its noise. The interval of an exact histogram is the binomial one (Clopper &
Pearson, Biometrika 1934; 26:404-413), which an order statistic as the threshold keeps exactly; of a noised one it adds
the noise by the delta method. Where its lower limit lies more than `TOLERANCE` below what was asked for, the data
cannot promise the point, and there is no threshold.
"""

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from melfed.common.metrics.calibration_map import HIDDEN, NO_CLASS, Lacking
from melfed.common.metrics.class_counts import ClassCounts, Uncertain, class_counts, melanomas_to_show
from melfed.common.metrics.intervals import UNDEFINED, Z95, FloatArray, Interval
from melfed.common.metrics.noisy_histogram import Histogram

Kind = Literal["sensitivity", "specificity"]
TOLERANCE = 0.10
"""How far below what was asked for a point's lower limit may lie."""


_COARSE = 0.2
"""Share of a class in one bin from which on nothing is supposed of where in it the images lie."""


class AtThreshold(BaseModel):
    """What a threshold does on an evaluation set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sensitivity: Interval = UNDEFINED
    specificity: Interval = UNDEFINED


class PointResult(BaseModel):
    """An operating point that was asked for.

    Attributes:
        kind: what is asked for.
        wanted: how much of it.
        logit: from which on an image is called a melanoma; None where the data cannot promise the point.
        validation: what the threshold does on the scores that it was chosen by; the interval of `kind` is the promise.
        test: what it does on others.
        lacking: why there is no threshold, and what would be needed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    wanted: float
    logit: float | None = None
    validation: AtThreshold = AtThreshold()
    test: AtThreshold = AtThreshold()
    lacking: Lacking | None = None

    @property
    def name(self) -> str:
        """What it is called, such as `sensitivity 0.95`."""
        return f"{self.kind} {self.wanted:g}"


def operating_point(h: Histogram, kind: Kind, wanted: float, test: Histogram | None = None) -> PointResult:
    """Choose the threshold of a point.

    Args:
        h: validation scores of the model.
        kind: what is asked for.
        wanted: how much of it, between 0 and 1.
        test: scores of others, to which it is applied.
    """
    point = PointResult(kind=kind, wanted=wanted)
    counts = class_counts(h)
    if counts is None:
        needed = melanomas_to_show(h)
        lacking = Lacking(reason=HIDDEN, needed=needed) if needed > 1 else Lacking(reason=NO_CLASS)
        return point.model_copy(update={"lacking": lacking})
    logit = _threshold(counts, kind, wanted)
    validation = _at(counts, logit)
    share, size, _ = _share(counts, kind, logit)
    if (below := _below(wanted, size, share.noise)) > TOLERANCE:
        reason = f"{kind} {wanted:g} could be off by {below:.2f}, more than {TOLERANCE:g}"
        needed = _needed(wanted, size, share.noise)
        what: Literal["with", "without"] = "with" if kind == "sensitivity" else "without"
        lacking = Lacking(reason=reason, needed=needed, what=what)
        return point.model_copy(update={"validation": validation, "lacking": lacking})
    update = {"logit": logit, "validation": validation, "test": at_threshold(test, logit) if test else AtThreshold()}
    return point.model_copy(update=update)


def at_threshold(h: Histogram, logit: float) -> AtThreshold:
    """Return what a threshold does on an evaluation set; undefined where a class is absent or hidden."""
    counts = class_counts(h)
    return AtThreshold() if counts is None else _at(counts, logit)


def _at(counts: ClassCounts, logit: float) -> AtThreshold:
    return AtThreshold(
        sensitivity=_interval(counts, "sensitivity", logit), specificity=_interval(counts, "specificity", logit)
    )


def _interval(counts: ClassCounts, kind: Kind, logit: float) -> Interval:
    found, size, reach = _share(counts, kind, logit)
    value = min(1.0, max(0.0, found.value))
    low, high = exact_limits(value, size)
    if counts.noise is not None:
        # As far from what was counted, which the noise may have moved beyond 0 or 1, as its deviation says.
        half = Z95 * found.deviation
        low, high = min(low, found.value - half), max(high, found.value + half)
    return Interval(value=value, low=min(value, max(0.0, low - reach)), high=max(value, min(1.0, high + reach)))


def _share(counts: ClassCounts, kind: Kind, logit: float) -> tuple[Uncertain, float, float]:
    """Return a share that is called right, of how many, and how far the order within the bin may shift it."""
    called = _called(counts, logit)
    place = 1 if kind == "sensitivity" else 0
    right = called if place else 1 - called
    of, smooth, size = (counts.negatives, counts.positives)[place], counts.smooth[place], counts.sizes[place]
    whole = float(of.sum())
    slopes = ((right - float(smooth @ right / smooth.sum())) / whole)[:, None]
    both = (np.zeros_like(slopes), slopes) if place else (slopes, np.zeros_like(slopes))
    sampling, noise = counts.covariance(*both)
    value = Uncertain(float(of @ right / whole), float(sampling[0, 0]), float(noise[0, 0]))
    return value, size, _reach(smooth / smooth.sum(), called)


def _reach(shares: FloatArray, called: FloatArray) -> float:
    """Return how far the order within the bin of the threshold may shift the share that is called."""
    (cut,) = np.flatnonzero((called > 0) & (called < 1)) if ((called > 0) & (called < 1)).sum() == 1 else (None,)
    if cut is None:
        inside = (called > 0) & (called < 1)  # bins of several clinics overlap
        return float((shares * np.maximum(called, 1 - called))[inside].sum()) / 2
    share, part = float(shares[cut]), float(called[cut])
    if share > _COARSE:
        return share * max(part, 1 - part) / 2
    # How far a density that is steep within the bin is from one that is even, at this place.
    around = shares[max(cut - 1, 0) : cut + 2]
    return part * (1 - part) / 2 * float(np.abs(np.diff(around)).max())


def _called(counts: ClassCounts, logit: float) -> FloatArray:
    """Return the share of each bin that is called a melanoma, its images evenly spread over it."""
    width = counts.high - counts.low
    inside = np.clip((counts.high - logit) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    called: FloatArray = np.where(width > 0, inside, counts.high >= logit)
    called[-1] = max(called[-1], float(counts.low[-1] >= logit))
    return called


def _threshold(counts: ClassCounts, kind: Kind, wanted: float) -> float:
    """Return the threshold with so much on these counts: of several the one with the most of the other kind."""
    if counts.places.shape[1] > 1:
        return _within(counts, kind, wanted)
    of = counts.positives if kind == "sensitivity" else counts.negatives
    if kind == "sensitivity":
        kept = np.cumsum(of[::-1])[::-1]  # called, with a threshold at each bin
        first = int(np.flatnonzero(kept >= wanted * of.sum() - 1e-9)[-1])
        # Of all that call the same melanomas, the most specific.
        return _between(counts, first)
    passed = np.concatenate(([0.0], np.cumsum(of)))[:-1]  # called harmless, with a threshold at each bin
    enough = np.flatnonzero(passed >= wanted * of.sum() - 1e-9)
    if not enough.size:
        return float(np.nextafter(counts.high.max(), np.inf))
    return _between(counts, int(enough[0]))


def _between(counts: ClassCounts, place: int) -> float:
    """Return a threshold just below a bin: midway to the one before, so that no rounding moves an image over it."""
    before = float(counts.high[:place].max()) if place else -np.inf
    low = float(counts.low[place])
    return (before + low) / 2 if np.isfinite(before) and before < low else low


def _within(counts: ClassCounts, kind: Kind, wanted: float) -> float:
    """Return the threshold by the densities, on the straight lines between the edges of bins."""
    of = counts.smooth[1 if kind == "sensitivity" else 0]
    passed = np.concatenate(([0.0], np.cumsum(of))) / of.sum()
    edges = np.append(counts.low, counts.high[-1])
    return float(np.interp(1 - wanted if kind == "sensitivity" else wanted, passed, edges))


def exact_limits(proportion: float, size: float) -> tuple[float, float]:
    """Return Clopper and Pearson's limits of a proportion of so many, possibly fractional, independent ones."""
    from scipy.special import betaincinv

    hits = proportion * size
    low = float(betaincinv(hits, size - hits + 1, 0.025)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 0.975)) if size - hits > 0 else 1.0
    return low, high


def _below(wanted: float, size: float, noise: float) -> float:
    """Return how far below what is wanted a share may lie: by so many independent ones, and this variance of noise."""
    sampling = wanted * (1 - wanted) / size
    return max(wanted - exact_limits(wanted, size)[0], Z95 * math.sqrt(sampling + noise))


def _needed(wanted: float, size: float, noise: float) -> int:
    """Return of how many, about, a share would be known well enough; noise is that of so many as there are."""
    low, high = size, 2 * size
    while _below(wanted, high, noise * (size / high) ** 2) > TOLERANCE:
        low, high = high, 2 * high
    while high - low > 0.01 * low:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _below(wanted, middle, noise * (size / middle) ** 2) > TOLERANCE else (low, middle)
        )
    return math.ceil(high)
