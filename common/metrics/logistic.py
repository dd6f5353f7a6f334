"""A logistic regression of the class on the score, from counts by score bin: what calibration is measured and made by.

Of exact counts it is the one of most likelihood. Of noised ones it solves equations that are linear in the counts, one
a bin: melanomas times the probability of none, less others times that of one, are 0 on average. So it is unbiased,
whatever the density of the scores; the equations are weighted by the inverse of their covariance, sampling and noise,
which no other weights better (the generalised method of moments: Hansen, Econometrica 1982; 50:1029-1054).
"""

from dataclasses import dataclass

import numpy as np

from melfed.common.metrics.class_counts import ClassCounts
from melfed.common.metrics.histogram import sigmoid
from melfed.common.metrics.intervals import FloatArray

_STEPS = 50
_SETTLED = 1e-9
"""Largest change of a logit at which the fit has converged."""
_HALVINGS = 6
_NEAR = 1e-3
"""The same, of the noised fit, far below its uncertainty."""
_FLOOR = 0.05
"""Least variance of a bin: an empty one is not certain to stay empty."""


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fit.

    Attributes:
        coefficients: shape (k,).
        sampling: covariance of them by sampling, shape (k, k).
        noise: covariance of them by noise.
    """

    coefficients: FloatArray
    sampling: FloatArray
    noise: FloatArray

    @property
    def covariance(self) -> FloatArray:
        """Covariance of the coefficients."""
        return self.sampling + self.noise


def fit_logistic(
    counts: ClassCounts,
    design: FloatArray,
    offset: FloatArray | None = None,
    *,
    smoothed: bool = False,
    near: FloatArray | None = None,
) -> Logistic | None:
    """Fit the log odds of a melanoma as offset + design · coefficients; None where there is no best fit.

    Args:
        counts: of both classes.
        design: at the places of the counts, shape (bins, points, k).
        offset: a part of the log odds that is given, shape (bins, points); None: 0.
        smoothed: with Platt's targets in place of 0 and 1 (Advances in Large Margin Classifiers 1999, 61-74), as if
            each class had one image more of the other: so that there is a best fit where the classes are separated.
        near: coefficients of a fit with fewer of them, the others 0: of noised counts one step is taken from there, as
        many
            coefficients would lead further steps astray (one step is as efficient: Le Cam, 1956).
    """
    given = np.zeros(design.shape[:2]) if offset is None else offset
    low, high = 0.0, 1.0
    if smoothed:
        low, high = 1 / (counts.smooth[0].sum() + 2), 1 - 1 / (counts.smooth[1].sum() + 2)
    if near is not None and counts.noise is not None:
        return _by_moments(counts, design, given, near, once=True)
    coefficients = _most_likely(counts, design, given, (low, high))
    if coefficients is None:
        return None
    if counts.noise is not None:
        return _by_moments(counts, design, given, coefficients)
    p = sigmoid(given + design @ coefficients)
    whole = _each(counts.smooth[0] + counts.smooth[1], design)
    influence = np.linalg.inv(_information(whole, p, design))
    # Images of a patient count as fewer: a class by as many as its sizes say.
    fewer = [each.sum() / size for each, size in zip(counts.smooth, counts.sizes, strict=True)]
    middle = _information(whole * ((1 - p) * fewer[1] + p * fewer[0]), p, design)
    sampling = influence @ middle @ influence
    return Logistic(coefficients, sampling, np.zeros_like(sampling))


def _each(counts: FloatArray, design: FloatArray) -> FloatArray:
    """Return counts by place."""
    return np.broadcast_to(counts[:, None] / design.shape[1], design.shape[:2])


def _information(whole: FloatArray, p: FloatArray, design: FloatArray) -> FloatArray:
    information: FloatArray = np.einsum("bp,bpi,bpj->ij", whole * p * (1 - p), design, design, optimize=True)
    return information


def _most_likely(
    counts: ClassCounts, design: FloatArray, given: FloatArray, targets: tuple[float, float]
) -> FloatArray | None:
    """Return the coefficients of most likelihood on the smooth counts, by Newton's method."""
    negatives, positives = (_each(each, design) for each in counts.smooth)
    wanted, whole = positives * targets[1] + negatives * targets[0], positives + negatives
    filled = counts.smooth[0] + counts.smooth[1] > 0
    coefficients = np.zeros(design.shape[2])
    for _ in range(_STEPS):
        p = sigmoid(given + design @ coefficients)
        slope = np.einsum("bp,bpi->i", wanted - whole * p, design)
        try:
            step = np.linalg.solve(_information(whole, p, design), slope)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(step).all():
            return None
        # The likelihood is concave: a step that is short enough never lowers it.
        tried = [coefficients + step / 2**k for k in range(_HALVINGS)]
        coefficients = max(tried, key=lambda each: _likelihood(given + design @ each, wanted, whole))
        if float(np.abs(design @ step)[filled].max()) < _SETTLED:
            return coefficients
    return None  # the classes are separated: the steeper, the better


def _by_moments(
    counts: ClassCounts, design: FloatArray, given: FloatArray, coefficients: FloatArray, *, once: bool = False
) -> Logistic | None:
    """Return the coefficients that the noised counts themselves give, from those of their smooth densities on."""
    assert counts.noise is not None  # noqa: S101
    whole = counts.smooth[0] + counts.smooth[1]
    for _ in range(_STEPS):
        p = sigmoid(given + design @ coefficients)
        mean, spread = p.mean(axis=1), (p * (1 - p)).mean(axis=1)
        rest = counts.positives * (1 - mean) - counts.negatives * mean
        noise = counts.noise[1] * np.outer(1 - mean, 1 - mean) + counts.noise[0] * np.outer(mean, mean)
        covariance = noise + np.diag(whole * spread + _FLOOR)
        slopes = whole[:, None] * (design * (p * (1 - p))[..., None]).mean(axis=1)
        weighed = np.linalg.solve(covariance, slopes)
        try:
            gain = np.linalg.solve(slopes.T @ weighed, weighed.T)
        except np.linalg.LinAlgError:
            return None
        step = gain @ rest
        if not np.isfinite(step).all():
            return None
        largest = float(np.abs(design @ step)[whole > 1].max(initial=0.0))
        coefficients = coefficients + step / (1.0 if once else max(1.0, largest))
        if once or largest < _NEAR:
            sampling = gain @ np.diag(whole * spread) @ gain.T
            return Logistic(coefficients, sampling, gain @ noise @ gain.T)
    return None


def _likelihood(logits: FloatArray, wanted: FloatArray, whole: FloatArray) -> float:
    return float((wanted * logits - whole * np.logaddexp(0.0, logits)).sum())


def line(places: FloatArray) -> FloatArray:
    """Return the design of intercept and slope at logits (bins, points), shape (bins, points, 2)."""
    return np.stack([np.ones_like(places), places], axis=-1)
