"""How many trials the best possible auditor needs, where one patient moves a step's noisy sum by more than C.

The Gaussian mechanism tells two worlds apart as N(0, 1) and N(μ, 1) (Dong, Roth & Su, arXiv 1905.02383). A patient who
moves the sum by s·C where C is accounted for makes sμ of μ. No statistic tells more than the sum itself, and of all
sets of outcomes those above a threshold are the ones that refute an (ε, δ) first (Neyman and Pearson).
"""

import math
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

_THRESHOLDS = np.linspace(-2, 12, 1401)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the δ at which N(0, 1) and N(μ, 1) are ε apart (Balle & Wang, arXiv 1805.06530, theorem 5)."""
    first, second = norm.cdf(mu / 2 - epsilon / mu), norm.logcdf(-mu / 2 - epsilon / mu)
    return float(first - math.exp(epsilon + second))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the μ at which the Gaussian mechanism is exactly (ε, δ)-private."""
    return float(brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, 1e-4, 100))


def trials_needed(shift: float, epsilon: float, delta: float, confidence: float = 0.95) -> float:
    """Return how many trials of two worlds refute (ε, δ) in one of two audits, at best; infinite where none can.

    P₁(A) - e^ε·P₀(A) - δ is positive for some set A exactly where the claim is wrong; from n trials, half of either
    world, it is estimated with a variance of 2(P₁(A) + e^2ε·P₀(A)) / n, or a little less. It has to lie so many
    standard deviations above 0 as the confidence asks for.

    Args:
        shift: s, by how many clipping norms one patient moves the sum.
        epsilon: claimed.
        delta: at which.
        confidence: of the refutation.
    """
    mu = shift * gaussian_mu(epsilon, delta)
    with_patient, without = norm.sf(_THRESHOLDS - mu), norm.sf(_THRESHOLDS)
    excess = with_patient - math.exp(epsilon) * without - delta
    variance = 2 * (with_patient + math.exp(2 * epsilon) * without)
    wrong = excess > 0
    if not wrong.any():
        return math.inf
    return float(NormalDist().inv_cdf(confidence) ** 2 * (variance[wrong] / excess[wrong] ** 2).min())
