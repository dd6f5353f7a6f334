"""How much noise a clinic's moments have, in a study of one round: what a coordinator plans by, and believes."""

import math

from melfed.common.study.count_noise import COUNTS_SHARE
from melfed.common.study.evaluation_noise import EVALUATION_SHARE
from melfed.common.study.protocol import PrivacySpec

LARGEST_MULTIPLIER = 1e6
"""The largest σ that a study can state."""
_LEFT = 0.5
"""Part of ε that moments have by themselves, at least: histograms and counts use up less than the other half."""
_LARGEST_EPSILON = 700.0
"""What a larger one is taken for by the accountant."""
_SLACK = 1.05
"""Accountants round towards more noise; for a δ near the end of their arithmetic by some hundredths."""


def moments_multiplier(privacy: PrivacySpec) -> float:
    """Return σ of the moments, but for an accountant's rounding; the plan itself is the clinics'.

    All that a clinic releases in such a study are Gaussian mechanisms, whose μ = 1/σ add up in squares (Dong, Roth &
    Su, arXiv 1905.02383): that of the study's ε, less what histograms and counts have.
    """
    if privacy.epsilon is None:
        return privacy.noise_multiplier or 0.0
    whole = _mu(privacy.epsilon, privacy.delta)
    histograms = _mu(EVALUATION_SHARE * privacy.epsilon, privacy.delta) if privacy.evaluation == "noised" else 0.0
    return 1 / math.sqrt(whole**2 * (1 - COUNTS_SHARE) - histograms**2)


def largest_moments_multiplier(privacy: PrivacySpec) -> float:
    """Return a noise multiplier of the moments that no clinic's plan of the study exceeds.

    As `melfed.common.study.evaluation_noise.largest_multiplier`: the σ that zero-concentrated differential privacy asks
    for (Bun & Steinke, arXiv 1605.02065, proposition 1.3).
    """
    if privacy.epsilon is None:
        return LARGEST_MULTIPLIER
    logarithm, epsilon = -math.log(privacy.delta), _LEFT * min(privacy.epsilon, _LARGEST_EPSILON)
    root = epsilon / (math.sqrt(logarithm + epsilon) + math.sqrt(logarithm))  # of ρ, without cancellation
    return min(_SLACK * math.sqrt(0.5) / root, LARGEST_MULTIPLIER)


def _mu(epsilon: float, delta: float) -> float:
    """Return μ of the one Gaussian mechanism that is exactly (ε, δ)-private (Balle & Wang, arXiv 1805.06530, th. 8)."""
    epsilon = min(epsilon, _LARGEST_EPSILON)

    def spent(mu: float) -> float:
        return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)

    low, high = 1e-9, math.sqrt(2 * epsilon) + 80
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) > delta else (middle, high)
    return low


def _normal(value: float) -> float:
    """Distribution function of the standard normal."""
    return math.erfc(-value / math.sqrt(2)) / 2
