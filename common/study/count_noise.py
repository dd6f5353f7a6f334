"""How much noise a private study's numbers of units may have: what a clinic plans by, and what a coordinator believes.

Of each part that is told in units there are two numbers: units with a positive image, and the others. A unit moves one
of them by 1; all of them leave once a run, as one Gaussian mechanism.
"""

import math

from melfed.common.study.protocol import PrivacySpec, StudyProtocol

COUNTS_SHARE = 0.02
"""Part of a run's squared μ (Gaussian differential privacy: Dong, Roth & Su, arXiv 1905.02383) that counts may use up.

μ of Gaussian mechanisms adds up in squares, so that this costs the steps 1 % more noise; at ε = 3 a number of patients
then has noise of about nine.
"""
FAINTEST = 1e5
"""σ of counts beyond which they say nothing of any clinic."""
_LARGEST_EPSILON = 700.0
"""What a larger one is taken for by the accountant."""
_SLACK = 1.05
"""Accountants round towards more noise; for a δ near the end of their arithmetic by some hundredths."""


def unit_parts(study: StudyProtocol) -> tuple[str, ...]:
    """Return the parts whose units a clinic tells; of the others it tells images, positives and groups, exactly."""
    if study.privacy is None:
        return ()
    return ("train", "validation", "test") if study.privacy.evaluation == "noised" else ("train",)


def largest_count_noise(privacy: PrivacySpec) -> float:
    """Return a standard deviation of the numbers of units that no clinic's plan of the study exceeds.

    As `melfed.common.study.evaluation_noise.largest_multiplier`: the σ that zero-concentrated differential privacy asks
    for (Bun & Steinke, arXiv 1605.02065, proposition 1.3). A study that states its own σ is bounded by `FAINTEST`
    alone.
    """
    if privacy.epsilon is None:
        return FAINTEST
    logarithm, epsilon = -math.log(privacy.delta), min(privacy.epsilon, _LARGEST_EPSILON)
    root = epsilon / (math.sqrt(logarithm + epsilon) + math.sqrt(logarithm))  # of ρ, without cancellation
    return min(_SLACK * math.sqrt(0.5 / COUNTS_SHARE) / root, FAINTEST)
