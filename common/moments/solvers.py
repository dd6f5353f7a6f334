"""Heads that are solved from class-wise moments: each a function of the same release, at no further cost in ε.

All of them know how much noise the moments have. A second moment of d features whose noise has the standard deviation s
off the diagonal (and √2 s on it) has eigenvalues that are wrong by up to 2 s √d, the edge of the noise's own spectrum
(Wigner's semicircle): below it a direction says nothing of the patients, and may even seem to have negative variance.
That edge is what `noise_ridge` adds to the diagonal: the least with which the matrix is positive definite whatever the
noise was, and it follows from public quantities alone. Before that, `denoised` takes out of each eigenvalue what the
noise has put there on average.

What decides is the direction of the head. Its length and bias are those with which the two classes' scores, taken as
normal, give a probability (`calibrated`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from melfed.common.errors import DataError
from melfed.common.moments.head import Head
from melfed.common.moments.noisy_moments import CLASSES, FloatArray, MomentClass, NoisyMoments

LEAST_RIDGE: Final = 0.01
"""Of the mean eigenvalue: without noise too, directions that hardly vary decide nothing."""
PREVALENCES: Final = (0.001, 0.999)
"""Between these a share of positives is taken for possible."""
_LEAST_UNITS: Final = 1.0
_NODES: Final = 32
"""Of the quadrature over a class's scores."""


@dataclass(frozen=True)
class Wanted:
    """What a head is solved for, besides the moments.

    Attributes:
        ridge: λ, what is added to each eigenvalue of the features' scatter, over `noise_ridge`: 1 is that itself.
        positive_weight: of a positive in the loss; a negative has 1.
        prevalence: share of positives for which the probabilities hold; None: that of the moments.
        public: a head that is known before, shape (d,): along it hardly any ridge is added. What the moments say of
            one direction is hardly noised, while what they say of all others is shrunk towards nothing; so a
            head that is drowned in noise is the public one, and not none. None: there is none.
    """

    ridge: float = 1.0
    positive_weight: float = 1.0
    prevalence: float | None = None
    public: tuple[float, ...] | None = None


def solve(solver: str, moments: NoisyMoments, wanted: Wanted) -> Head:
    """Return the head that a solver makes of moments.

    Args:
        solver: one of `SOLVERS`.
        moments: of all clinics together.
        wanted: what it is solved for.

    Raises:
        DataError: there is no such solver, or the noise leaves no direction at all.
    """
    if solver not in SOLVERS:
        raise DataError(f"no solver {solver!r}; known: {', '.join(SOLVERS)}")
    direction = SOLVERS[solver](moments, wanted)
    if not np.isfinite(direction).all() or not direction.any():
        raise DataError("these moments tell nothing of the two classes; more patients, or a larger ε, are needed")
    return calibrated(direction, moments, wanted)


def noise_ridge(moments: NoisyMoments) -> float:
    """Return λ, in counts: 2 s √d for the scatter of both classes together, and at least `LEAST_RIDGE`."""
    # The noise of two classes, each with τ/√2 off the diagonal, is one of τ.
    edge = 2 * moments.noise_std * math.sqrt(moments.features)
    return max(edge, LEAST_RIDGE * float(np.trace(scatter_within(moments))) / moments.features, 1e-9)


def denoised(matrix: FloatArray, std: float) -> FloatArray:
    """Return a symmetric matrix with the noise taken out of its eigenvalues, and none of them negative.

    Among all estimators that keep the eigenvectors this one has, for large d, the least squared error: each eigenvalue
    λ becomes λ - 2 s² d Re g(λ), with g the mean of 1 / (λ - λⱼ), smoothed over 2 s (Bun, Allez, Bouchaud & Potters,
    arXiv 1502.06736, section IV A).

    Args:
        matrix: symmetric, shape (d, d).
        std: s, standard deviation of the noise off the diagonal; √2 of it on the diagonal.
    """
    values, vectors = np.linalg.eigh(matrix)
    if std > 0:
        resolvent = 1 / (values[:, None] - 2j * std - values[None, :])
        values = np.sort(values - 2 * std**2 * resolvent.sum(axis=1).real)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def calibrated(direction: FloatArray, moments: NoisyMoments, wanted: Wanted) -> Head:
    """Return the head along a direction whose logits are those of two normal classes of one variance.

    With means m₁, m₀ and variance v of the scores the logit of a score t is (m₁ - m₀) (t - (m₁ + m₀) / 2) / v plus the
    log odds of the prevalence, and of the weight of a positive.
    """
    units = {name: max(moments.count(name), _LEAST_UNITS) for name in CLASSES}
    means = {name: float(direction @ moments.total(name)) / units[name] for name in CLASSES}
    every = sum(units.values())
    spread = float(direction @ denoised(scatter_within(moments), moments.noise_std) @ direction)
    ridge = wanted.ridge * noise_ridge(moments) * float(direction @ direction)
    slope = (means["positives"] - means["negatives"]) * every / (spread + ridge)
    prevalence = units["positives"] / every if wanted.prevalence is None else wanted.prevalence
    prevalence = min(max(prevalence, PREVALENCES[0]), PREVALENCES[1])
    odds = math.log(prevalence / (1 - prevalence)) + math.log(wanted.positive_weight)
    return Head(slope * direction, odds - slope * (means["positives"] + means["negatives"]) / 2)


def _mean(moments: NoisyMoments, name: MomentClass) -> FloatArray:
    return moments.total(name) / max(moments.count(name), _LEAST_UNITS)


def scatter_within(moments: NoisyMoments) -> FloatArray:
    """Return the scatter within the classes, shape (d, d): the sum of outer products of features less class means.

    Off its diagonal the noise has a standard deviation of `moments.noise_std`.
    """
    scatter = np.zeros((moments.features, moments.features))
    for name in CLASSES:
        mean = _mean(moments, name)
        scatter += moments.second(name) - max(moments.count(name), _LEAST_UNITS) * np.outer(mean, mean)
    return scatter


def _regularised(matrix: FloatArray, wanted: Wanted, moments: NoisyMoments) -> FloatArray:
    ridge = wanted.ridge * noise_ridge(moments) * np.eye(len(matrix))
    if wanted.public is not None:
        public = np.array(wanted.public)
        public /= np.linalg.norm(public)
        # Along it as much as keeps a matrix whose noise was taken out positive definite.
        least = LEAST_RIDGE * max(float(np.trace(matrix)), 0.0) / len(matrix) + 1e-9
        ridge -= max(float(ridge[0, 0]) - least, 0.0) * np.outer(public, public)
    return matrix + ridge


def _ridge(moments: NoisyMoments, wanted: Wanted) -> FloatArray:
    """Least squares for targets ±1 with a bias and the weights of the classes, as the moments stand."""
    weights = {"positives": wanted.positive_weight, "negatives": 1.0}
    every = sum(weights[name] * max(moments.count(name), _LEAST_UNITS) for name in CLASSES)
    total = sum((weights[name] * moments.total(name) for name in CLASSES), np.zeros(moments.features))
    second = sum((weights[name] * moments.second(name) for name in CLASSES), np.zeros((moments.features,) * 2))
    centred = denoised(second - np.outer(total, total) / every, 0.0)
    signed = weights["positives"] * moments.total("positives") - weights["negatives"] * moments.total("negatives")
    targets = weights["positives"] * moments.count("positives") - weights["negatives"] * moments.count("negatives")
    return np.asarray(np.linalg.solve(_regularised(centred, wanted, moments), signed - total * targets / every))


def _discriminant(moments: NoisyMoments, wanted: Wanted) -> FloatArray:
    """Fisher's discriminant with a scatter that the noise is taken out of."""
    scatter = denoised(scatter_within(moments), moments.noise_std)
    difference = _mean(moments, "positives") - _mean(moments, "negatives")
    return np.asarray(np.linalg.solve(_regularised(scatter, wanted, moments), difference))


def _logistic(moments: NoisyMoments, wanted: Wanted) -> FloatArray:
    """The least logistic loss over two normal classes, each with a covariance of its own as far as noise lets it show.

    The loss of a head is an integral over the scores of each class, which have one dimension, whatever d is.
    """
    from scipy.optimize import minimize

    classes = [_Normal.of(moments, name) for name in CLASSES]
    every = sum(normal.units for normal in classes)
    weights = np.array([classes[0].units * wanted.positive_weight, classes[1].units])
    weights /= weights.sum()
    # The loss bends by p (1 - p) where least squares bends by 1.
    decay = wanted.ridge * noise_ridge(moments) / every * float(weights[0] * weights[1])

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        direction, off = values[:-1], _off_public(values[:-1], wanted)
        value, gradient = decay / 2 * float(off @ off), np.append(decay * off, 0.0)
        for sign, weight, normal in zip((1.0, -1.0), weights, classes, strict=True):
            of_class, change = normal.loss(direction, float(values[-1]), sign)
            value, gradient = value + weight * of_class, gradient + weight * change
        return value, gradient

    start = np.append(1e-3 * (classes[0].mean - classes[1].mean), math.log(weights[0] / weights[1]))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(found.x[:-1])


def _off_public(direction: FloatArray, wanted: Wanted) -> FloatArray:
    """Return what of a direction is not along the public head."""
    if wanted.public is None:
        return direction
    public = np.array(wanted.public)
    return np.asarray(direction - (direction @ public) / (public @ public) * public)


@dataclass(frozen=True, eq=False)
class _Normal:
    """A class taken as normal."""

    units: float
    mean: FloatArray
    covariance: FloatArray

    @classmethod
    def of(cls, moments: NoisyMoments, name: MomentClass) -> "_Normal":
        units, mean = max(moments.count(name), _LEAST_UNITS), _mean(moments, name)
        every = sum(max(moments.count(other), _LEAST_UNITS) for other in CLASSES)
        common = denoised(scatter_within(moments), moments.noise_std) / every
        own = moments.second(name) / units - np.outer(mean, mean)
        # How much of the difference is more than noise: its squared norm against what noise alone would have.
        noise = (moments.noise_std / units) ** 2 * moments.features * (moments.features + 1) / 2
        seen = float(((own - common) ** 2).sum())
        share = max(0.0, 1 - noise / seen) if seen > 0 else 0.0
        return cls(units, mean, denoised(common + share * (own - common), 0.0))

    def loss(self, direction: FloatArray, bias: float, sign: float) -> tuple[float, FloatArray]:
        """Return the mean logistic loss of the class, whose targets have this sign, and its gradient (d + 1,)."""
        from scipy.special import expit, log_expit

        along = self.covariance @ direction
        spread = math.sqrt(max(float(direction @ along), 1e-18))
        scores = float(direction @ self.mean) + bias + spread * _POINTS
        slopes = -sign * _SHARES * expit(-sign * scores)
        of_direction = slopes.sum() * self.mean + float(slopes @ _POINTS) / spread * along
        return float(-(_SHARES @ log_expit(sign * scores))), np.append(of_direction, slopes.sum())


_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(_NODES)
_SHARES = _WEIGHTS / _WEIGHTS.sum()

SOLVERS: Final[Mapping[str, Callable[[NoisyMoments, Wanted], FloatArray]]] = {
    "logistic": _logistic,
    "discriminant": _discriminant,
    "ridge": _ridge,
}
"""Directions of heads, by the solver's name; the first is what a study is solved by."""
