"""How scores are spread, from noisy counts: a smooth density, and how uncertain it is.

Noise leaves counts that are negative or rough. The density that is drawn instead has a logarithm with a small third
difference, and follows the counts only as far as noise and sampling error let it: with much noise it becomes a normal
density in logit, with little it takes any shape (Silverman, Annals of Statistics 1982; 10:795-810). How smooth is
decided by the evidence of the counts themselves (Laplace's approximation). The densities around it that the same counts
allow give the intervals: for penalised fits such intervals cover as stated on average over the curve (Wahba, JRSS B
1983; 45:133-150; Nychka, JASA 1988; 83:1134-1143).
"""

from dataclasses import dataclass

import numpy as np

from melfed.common.metrics.intervals import FloatArray

SMOOTHNESS = tuple(10.0**power for power in (6.0, 4.5, 3.0, 1.5, 0.0))
"""Weights of the squared third differences that are tried, from the smoothest."""
_RIDGE = 1e-8
"""Weight of the squares of the logarithms: no density feels it, but every matrix has an inverse by it."""
_FLOOR = 0.25
"""Least variance of a count: an empty bin is not certain to stay empty."""
_STEPS = 40
_SETTLED = 0.02
"""Largest change of the logarithm of a count at which the fit has converged."""
_FEWEST = 1e-3
"""Counts below this say nothing about convergence: they go on falling for ever."""
_LOWEST, _HIGHEST = -30.0, 25.0
"""Range of logarithms of counts in which exp is taken."""


@dataclass(frozen=True, eq=False)
class Density:
    """Expected counts by bin.

    Attributes:
        edges: of the bins, ascending logits, shape (bins - 1,).
        log_counts: shape (bins,).
        precision: of ``log_counts``, given the noisy counts, shape (bins, bins).
        exact_precision: the same, had the counts no noise.
        evidence: logarithm of the probability of the noisy counts under this smoothness, up to a constant.
    """

    edges: FloatArray
    log_counts: FloatArray
    precision: FloatArray
    exact_precision: FloatArray
    evidence: float

    @property
    def counts(self) -> FloatArray:
        """Expected counts, positive, shape (bins,)."""
        return exp_counts(self.log_counts)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Middles and widths of bins, in mean widths, and the matrix of the sum of squared third differences."""

    middle: FloatArray
    width: FloatArray
    roughness: FloatArray

    @classmethod
    def of(cls, edges: FloatArray) -> "_Grid":
        # The outermost bins have no end: they are taken to be as wide as their neighbours.
        ends = np.concatenate(([2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]))
        ends = (ends - ends[0]) * ((len(ends) - 1) / (ends[-1] - ends[0]))
        middle, width = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
        return cls(middle, width, _roughness(middle))


def fit_density(
    counts: FloatArray, noise: FloatArray, edges: FloatArray, smoothness: tuple[float, ...] = SMOOTHNESS
) -> Density:
    """Fit a smooth density.

    Args:
        counts: noisy counts by bin, shape (bins,), with a clearly positive sum.
        noise: covariance of their noise, shape (bins, bins).
        edges: of the bins, ascending logits, shape (bins - 1,).
        smoothness: weights of the squared third differences that are tried, from the smoothest.
    """
    grid = _Grid.of(edges)
    start, best = _normal(counts, noise, grid), None
    for weight in smoothness:
        found = _fit(counts, noise, edges, grid, weight, start)
        if best is not None and found.evidence < best.evidence:
            break
        best, start = found, found.log_counts
    assert best is not None  # noqa: S101  # the first is always kept
    return best


def _fit(
    counts: FloatArray, noise: FloatArray, edges: FloatArray, grid: _Grid, smoothness: float, start: FloatArray
) -> Density:
    """Most probable density for one smoothness, by scoring: counts have the variance of noise and of Poisson's law."""
    prior = smoothness * grid.roughness + _RIDGE * np.eye(len(counts))
    # What is smooth is the density: wider bins have more counts.
    level, log_counts = np.log(grid.width), start
    for _ in range(_STEPS):
        mean, weight = _weighted(log_counts, noise)
        information = mean[:, None] * weight * mean
        slope = mean * (weight @ (counts - mean)) - prior @ (log_counts - level)
        step = np.linalg.solve(information + prior, slope)
        change = float(np.abs(step[mean > _FEWEST]).max(initial=0.0))
        log_counts = log_counts + step / max(1.0, change)
        if change < _SETTLED:
            break
    mean, weight = _weighted(log_counts, noise)
    precision = mean[:, None] * weight * mean + prior
    rest = counts - mean
    logarithms = np.linalg.slogdet(weight)[1] + np.linalg.slogdet(prior)[1] - np.linalg.slogdet(precision)[1]
    bend = log_counts - level
    evidence = (logarithms - rest @ weight @ rest - bend @ prior @ bend) / 2
    exact = prior + np.diag(mean**2 / (mean + _FLOOR))
    return Density(edges, log_counts, precision, exact, float(evidence))


def _weighted(log_counts: FloatArray, noise: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected counts, and the inverse of the covariance that observed ones have around them."""
    mean = exp_counts(log_counts)
    covariance = noise + np.diag(mean + _FLOOR)
    return mean, np.linalg.inv(covariance).astype(np.float64)


def _normal(counts: FloatArray, noise: FloatArray, grid: _Grid) -> FloatArray:
    """Logarithm of a normal density with about the mean and spread of the counts: where the fit begins."""
    places = grid.middle
    window = np.ones(9) / 9
    smooth = np.convolve(counts, window, "same") - np.sqrt(noise.diagonal().mean() / len(window))
    weight = np.clip(smooth, 0.0, None)
    if not weight.any():
        weight = np.ones(len(counts))
    centre = np.average(places, weights=weight)
    spread = max(float(np.average((places - centre) ** 2, weights=weight)), 2.0)
    shape = np.log(grid.width) - (places - centre) ** 2 / (2 * spread)
    logarithm: FloatArray = shape + np.log(max(counts.sum(), 1.0) / exp_counts(shape).sum())
    return logarithm


def exp_counts(logarithms: FloatArray) -> FloatArray:
    """Counts from their logarithms, kept within what a float can bear."""
    exponential: FloatArray = np.exp(np.clip(logarithms, _LOWEST, _HIGHEST))
    return exponential


def _roughness(middle: FloatArray) -> FloatArray:
    """Matrix of the sum of squared third differences, which are 0 for a normal density, whatever the bins' widths.

    They are divided differences times the third power of the widths there, so that bins are smoothed alike.
    """
    rows = np.zeros((len(middle) - 3, len(middle)))
    for place in range(4):
        others = [middle[i : len(middle) - 3 + i] for i in range(4) if i != place]
        own = middle[place : len(middle) - 3 + place]
        rows[np.arange(len(rows)), np.arange(len(rows)) + place] = 1 / np.prod(
            [own - other for other in others], axis=0
        )
    rows *= np.sqrt(20 / (rows**2).sum(axis=1, keepdims=True))  # the norm of (-1, 3, -3, 1)
    product: FloatArray = rows.T @ rows
    return product
