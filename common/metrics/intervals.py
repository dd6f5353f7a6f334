"""Closed-form 95 % confidence intervals that need no scores, only counts.

They serve where a clinic hands over nothing but a histogram, and where a bootstrap is known to fail (few melanomas,
a value at 0 or 1). Sample sizes may be fractional: images of one patient are not independent, so callers pass Kish's
effective size instead of the number of images.
"""

from collections.abc import Callable
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

FloatArray = npt.NDArray[np.float64]

Z95 = NormalDist().inv_cdf(0.975)


class Interval(BaseModel):
    """A value with its 95 % confidence limits; all three None where the value is undefined (one class only)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def around(self, value: float) -> "Interval":
        """The same limits for another value, widened where it lies outside by rounding; undefined stays undefined."""
        if self.low is None or self.high is None:
            return self
        return proportion_interval(value, self.low, self.high)


UNDEFINED = Interval()


def proportion_interval(value: float, low: float, high: float) -> Interval:
    """Interval of a quantity in [0, 1], widened where rounding (or a biased resampling) left its value outside."""
    return Interval(value=value, low=max(0.0, min(low, value)), high=min(1.0, max(high, value)))


def kish_size(total: float, sum_of_squares: float) -> float:
    """Effective number of independent images, (Σm)²/Σm² for groups of m images (Kish 1965).

    It treats the images of one group as copies of each other, so it never overstates the information.
    0 where there is no image.
    """
    return total * total / sum_of_squares if sum_of_squares else 0.0


def wilson(proportion: npt.ArrayLike, size: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval of a binomial proportion (Wilson 1927), elementwise.

    Args:
        proportion: observed proportions in [0, 1], any shape.
        size: numbers of independent observations, > 0 and possibly fractional; broadcast against ``proportion``.

    Returns:
        Lower and upper limits, of the broadcast shape.

    >>> low, high = wilson(0.9, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.596, 0.982)
    """
    p, n = np.asarray(proportion, dtype=np.float64), np.asarray(size, dtype=np.float64)
    square = Z95 * Z95
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = Z95 * np.sqrt(p * (1 - p) / n + square / (4 * n * n)) / (1 + square / n)
    return np.clip(centre - half, 0.0, p), np.clip(centre + half, p, 1.0)  # rounding may pass the proportion


def square_and_add(value: float, *parts: tuple[float, float]) -> tuple[float, float]:
    """Limits of a sum of independent estimates from the limits of each (Newcombe 1998; "MOVER", Zou & Donner 2008).

    Args:
        value: the sum.
        parts: for each addend how far its own limits lie (below, above) its value, both >= 0.
    """
    return value - sqrt(sum(below**2 for below, _ in parts)), value + sqrt(sum(above**2 for _, above in parts))


def newcombe_auroc(theta: float, positives: float, negatives: float, inflation: float = 1.0) -> tuple[float, float]:
    """Newcombe's method 5 for the area under the ROC curve (Stat Med 2006; 25:559-573).

    Solves |t - theta| = z sqrt(V(t)), where V is Hanley and McNeil's variance with both sample sizes in its numerator
    replaced by their mean. Being a score interval it stays inside [0, 1] and keeps a width at theta = 0 or 1.

    Args:
        theta: estimated area in [0, 1].
        positives: number of independent positives, > 0.
        negatives: number of independent negatives, > 0.
        inflation: factor >= 1 on V, for score distributions more spread than the exponential ones V supposes.
    """

    def reach(t: float) -> float:
        """How far from ``t`` an estimate still lies within the interval around ``t``."""
        return Z95 * sqrt(inflation * hanley_mcneil(t, positives, negatives))

    return _first_inside(theta, 0.0, reach), _first_inside(theta, 1.0, reach)


def hanley_mcneil(theta: float, positives: float, negatives: float) -> float:
    """Variance of the AUROC for exponential scores, both class sizes in the numerator replaced by their mean."""
    extra = (positives + negatives) / 2 - 1
    spread = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) * spread / (positives * negatives)


def _first_inside(theta: float, end: float, reach: Callable[[float], float]) -> float:
    """Bisect between ``end`` (not in the interval) and ``theta`` (in it) for the limit on that side."""
    outside, inside = end, theta
    for _ in range(60):  # 2^-60 is below the precision of a double in [0, 1]
        middle = (outside + inside) / 2
        if abs(middle - theta) > reach(middle):
            outside = middle
        else:
            inside = middle
    return (outside + inside) / 2


def boyd_auprc(theta: float, size: float) -> tuple[float, float]:
    """Logit interval of the average precision (Boyd, Eng & Page, ECML PKDD 2013, section 3.2).

    The limits are expit(logit theta ± z / sqrt(n theta (1 - theta))). The published formula breaks down at 0 and 1,
    where its variance vanishes; see ``_logit_low`` for what replaces it there.

    Args:
        theta: estimated average precision in [0, 1].
        size: number of independent positives, > 0.
    """
    return _logit_low(theta, size), 1 - _logit_low(1 - theta, size)


def _logit_low(theta: float, size: float) -> float:
    # As theta grows to 1 the formula's lower limit first rises and then falls back to 0. Its derivative vanishes where
    # theta (1 - theta) = z² / (4 (n + z²)); beyond that point the limit is kept at its maximum. So it is monotone
    # (a better classifier never gets a lower limit, and limits at the binning bounds enclose all between them) and
    # has a sensible value at 1.
    turning_point = (1 + sqrt(size / (size + Z95 * Z95))) / 2
    theta = min(theta, turning_point)
    if theta <= 0:
        return 0.0
    logit = log(theta / (1 - theta)) - Z95 / sqrt(size * theta * (1 - theta))
    return 1 / (1 + exp(-logit)) if logit > -500 else 0.0
