"""From logits to probabilities that are shares of melanomas: a map made of validation scores, with its uncertainty.

The map is made of what clinics released already, histograms with noise or without, so it costs no privacy. It is
Platt's, a logistic of the logit (Advances in Large Margin Classifiers 1999, 61-74), unless the counts show, beyond
sampling error and noise, that this is wrong (a Wald test of the bends); then it is monotone, a line with bends at
quantiles of the scores. Both rise strictly, so that no image overtakes another and AUROC stays what it was.
"""

import math
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from melfed.common.metrics.class_counts import ClassCounts, class_counts, melanomas_to_show
from melfed.common.metrics.histogram import sigmoid
from melfed.common.metrics.intervals import Z95, FloatArray
from melfed.common.metrics.logistic import Logistic, fit_logistic, line
from melfed.common.metrics.noisy_histogram import Histogram

QUANTILES = (0.2, 0.5, 0.8)
"""Of both classes, each weighing one half: where a monotone map bends."""
_LEAST_SLOPE = 0.05
"""Of a monotone map, in parts of the slope of Platt's."""
_SHOWN = 0.01
"""Of Platt's map, how probable bends of that size would be by chance, at most, for it to be given up."""


class Calibration(BaseModel):
    """A map from the logit x of a model to that of a probability.

    It is slope · x + intercept + Σ bend · max(0, x - knot): Platt's where there are no bends.

    >>> map_ = Calibration(slope=0.5, intercept=-1.0, covariance=((0.04, 0.0), (0.0, 0.01)))
    >>> round(float(map_.probability(4.0)), 3), tuple(round(limit, 3) for limit in map_.interval(4.0))
    (0.731, (0.531, 0.867))
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    slope: float = Field(gt=0, description="of the logit")
    intercept: float = Field(description="added to it")
    knots: tuple[float, ...] = Field((), description="logits at which the map bends, ascending")
    bends: tuple[float, ...] = Field((), description="by how much its slope changes at each")
    covariance: tuple[tuple[float, ...], ...] = Field(
        (), description="of intercept, slope and bends; empty: nobody has said how uncertain they are"
    )

    @property
    def method(self) -> Literal["platt", "monotone"]:
        """What kind of map it is."""
        return "monotone" if self.knots else "platt"

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.knots) != len(self.bends):
            raise ValueError("there are not as many knots as bends")
        if any(later <= earlier for earlier, later in zip(self.knots, self.knots[1:], strict=False)):
            raise ValueError("the knots are not ascending")
        if any(slope <= 0 for slope in np.cumsum([self.slope, *self.bends])):
            raise ValueError("the map falls somewhere, so that it would change the order of images")
        size = 2 + len(self.bends)
        if self.covariance and [len(row) for row in self.covariance] != [size] * size:
            raise ValueError(f"the covariance is not one of {size} numbers")
        return self

    def logit(self, logits: npt.ArrayLike) -> FloatArray:
        """Return the logits of the probabilities."""
        mapped: FloatArray = self._basis(logits) @ np.array([self.intercept, self.slope, *self.bends])
        return mapped

    def probability(self, logits: npt.ArrayLike) -> FloatArray:
        """Return the probabilities."""
        return sigmoid(self.logit(logits))

    def interval(self, logit: float) -> tuple[float, float]:
        """Return the 95 % limits of the probability of images with this logit; the value itself without covariance."""
        centre, basis = float(self.logit(logit)), self._basis(logit)
        variance = float(basis @ np.array(self.covariance) @ basis) if self.covariance else 0.0
        half = Z95 * math.sqrt(max(variance, 0.0))
        return float(sigmoid(centre - half)), float(sigmoid(centre + half))

    def _basis(self, logits: npt.ArrayLike) -> FloatArray:
        return _design(np.asarray(logits, np.float64), self.knots)


class Lacking(BaseModel):
    """Why something cannot be said of an evaluation set, and how many of what it would take, about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    needed: int | None = None
    what: Literal["with", "without"] = "with"

    def __str__(self) -> str:
        if self.needed is None:
            return self.reason
        return f"{self.reason}; about {self.needed:,} {self.what} a melanoma would be needed in the part"


NO_CLASS = "validation has images of one class alone"
HIDDEN = "the noise hides a class"
FLAT = "the scores do not tell melanomas from others clearly enough"


def calibration_map(h: Histogram) -> Calibration | Lacking:
    """Return the map that validation scores give, or why there is none."""
    counts = class_counts(h)
    if counts is None:
        needed = melanomas_to_show(h)
        return Lacking(reason=HIDDEN, needed=needed) if needed > 1 else Lacking(reason=NO_CLASS)
    platt = _fitted(counts, ())
    if platt is None:
        return Lacking(reason="all scores are the same")
    slope, variance = float(platt.coefficients[1]), float(platt.covariance[1, 1])
    if slope <= Z95 * math.sqrt(variance):
        return Lacking(reason=FLAT, needed=_for_a_slope(platt, counts))
    return _monotone(counts, platt) or _map(platt.coefficients, (), platt.covariance)


def _fitted(counts: ClassCounts, knots: tuple[float, ...], platt: Logistic | None = None) -> Logistic | None:
    """Fit in units of the scores' own spread, in which no matrix is ill-conditioned; return the fit of the logits."""
    whole = (counts.smooth[0] + counts.smooth[1])[:, None] / counts.places.shape[1]
    centre = float((whole * counts.places).sum() / whole.sum())
    unit = math.sqrt(float((whole * (counts.places - centre) ** 2).sum() / whole.sum()))
    if not unit > 0 or not math.isfinite(unit):
        return None
    design = _design((counts.places - centre) / unit, tuple((knot - centre) / unit for knot in knots))
    near = None
    if platt is not None:
        intercept, slope = platt.coefficients
        near = np.array([intercept + slope * centre, slope * unit, *[0.0] * len(knots)])
    fit = fit_logistic(counts, design, smoothed=True, near=near)
    if fit is None:
        return None
    back = np.diag([1.0, *[1 / unit] * (1 + len(knots))])
    back[0, 1] = -centre / unit
    return Logistic(back @ fit.coefficients, back @ fit.sampling @ back.T, back @ fit.noise @ back.T)


def _design(logits: FloatArray, knots: tuple[float, ...]) -> FloatArray:
    beyond = np.maximum(logits[..., None] - np.array(knots), 0.0)
    design: FloatArray = np.concatenate([line(logits), beyond], axis=-1)
    return design


def _for_a_slope(platt: Logistic, counts: ClassCounts) -> int | None:
    from melfed.common.metrics.class_counts import Uncertain

    slope = Uncertain(float(platt.coefficients[1]), float(platt.sampling[1, 1]), float(platt.noise[1, 1]))
    # A slope of nothing needs more than there will ever be.
    return slope.needed(slope.value, counts.sizes[1]) if slope.value > 0.1 * slope.deviation else None


def _monotone(counts: ClassCounts, platt: Logistic) -> Calibration | None:
    """Return a map with bends where the counts show some, beyond their uncertainty; None where they do not."""
    from scipy.stats import chi2

    shares = sum(each / each.sum() for each in counts.smooth) / 2
    middle = counts.places.mean(axis=1)
    knots = tuple(np.unique(middle[np.searchsorted(np.cumsum(shares), QUANTILES)]).tolist())
    if len(knots) < len(QUANTILES):
        return None
    fit = _fitted(counts, knots, platt)
    if fit is None:
        return None
    bends, covariance = fit.coefficients[2:], fit.covariance
    try:
        shown = float(bends @ np.linalg.solve(covariance[2:, 2:], bends))
        coefficients = _rising(fit.coefficients, covariance, _LEAST_SLOPE * float(platt.coefficients[1]))
    except np.linalg.LinAlgError:
        return None
    if not shown > chi2.isf(_SHOWN, len(bends)):
        return None
    return _map(coefficients, knots, covariance)


def _rising(coefficients: FloatArray, covariance: FloatArray, least: float) -> FloatArray:
    """Return the most probable coefficients with which the map rises by `least` at least everywhere."""
    slopes = np.cumsum(coefficients[1:])
    if (slopes >= least).all():
        return coefficients
    from scipy.optimize import lsq_linear

    # Of intercept and slopes between the knots the constraint is a bound.
    to_bends = np.eye(len(coefficients))
    to_bends[np.arange(2, len(coefficients)), np.arange(1, len(coefficients) - 1)] = -1
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    lower = np.array([-np.inf, *[least] * len(slopes)])
    found = lsq_linear(root @ to_bends, root @ coefficients, (lower, np.inf))
    rising: FloatArray = to_bends @ np.maximum(found.x, lower)
    return rising


def _map(coefficients: FloatArray, knots: tuple[float, ...], covariance: FloatArray) -> Calibration:
    intercept, slope, *bends = (float(value) for value in coefficients)
    rows = tuple(tuple(float(value) for value in row) for row in covariance)
    return Calibration(slope=slope, intercept=intercept, knots=knots, bends=tuple(bends), covariance=rows)
