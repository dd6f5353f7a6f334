"""How much noise a clinic's moments may have, in a study of one round: what a coordinator believes."""

import math

from melfed.common.study.protocol import PrivacySpec

LARGEST_MULTIPLIER = 1e6
"""The largest σ that a study can state."""
_LEFT = 0.5
"""Part of ε that moments have by themselves, at least: histograms and counts use up less than the other half."""
_LARGEST_EPSILON = 700.0
"""What a larger one is taken for by the accountant."""
_SLACK = 1.05
"""Accountants round towards more noise; for a δ near the end of their arithmetic by some hundredths."""


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
