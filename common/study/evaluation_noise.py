"""How much noise a study's histograms of scores may have: what a clinic plans by, and what a coordinator believes."""

import math

from melfed.common.data.subgroups import BY_CLINIC
from melfed.common.study.protocol import PrivacySpec, StudyProtocol, validates

EVALUATION_SHARE = 0.25
"""Part of a stated ε that noised histograms may use up by themselves; the steps get what that leaves."""
LARGEST_MULTIPLIER = 10_000.0
"""Noise of the evaluation beyond which not even a million patients would show."""
_LARGEST_EPSILON = 700.0
"""What a larger one is taken for by the accountant."""
_SLACK = 1.05
"""Accountants round towards more noise; for a δ near the end of their arithmetic by some hundredths."""


def evaluations(study: StudyProtocol) -> int:
    """Return how often a clinic's histograms leave it at most: with each validation, and once in the end.

    With `federation.stop` there can be two evaluations in the end: of the last round's model, which may be the best,
    and where it is not, of the one that is.
    """
    return sum(validates(study, number) for number in range(1, study.federation.rounds)) + final_evaluations(study)


def final_evaluations(study: StudyProtocol) -> int:
    """Return how often a final model's histograms leave a clinic at most."""
    return 1 if study.federation.stop is None else 2


def noised_attributes(study: StudyProtocol) -> tuple[str, ...]:
    """Return the attributes by which a clinic tells its test part apart; whose cells are the clinics is not among them.

    A clinic's own test histogram leaves it in any case, so that one is of no further cost.
    """
    return tuple(name for name in study.evaluation.subgroups if name != BY_CLINIC)


def subgroups_multiplier(study: StudyProtocol, evaluation: float) -> float:
    """Return σ of a release of subgroups, where that of the study's other histograms is `evaluation`.

    All releases of subgroups together cost what all other histograms cost together: squared μ = 1/σ² add up (Gaussian
    differential privacy: Dong, Roth & Su, arXiv 1905.02383), n/σ² of n histograms, and m/σ'² of m releases. So whoever
    knows a clinic's σ of histograms, and the study, knows this one as well. It is σ over the sensitivity of all
    attributes at once (`melfed.client.privacy.noised_subgroups`).
    """
    return evaluation * math.sqrt(final_evaluations(study) / evaluations(study))


def gaussian_multiplier(study: StudyProtocol, privacy: PrivacySpec) -> float | None:
    """Return the noise multiplier of the histograms, but for an accountant's rounding; None where no ε is stated.

    Releases with noise alone are one Gaussian mechanism, whose δ has a closed form (Balle & Wang, arXiv 1805.06530,
    theorem 8): exact, where `largest_multiplier` is a bound.
    """
    if privacy.epsilon is None or privacy.evaluation == "public":
        return None
    epsilon, releases = min(EVALUATION_SHARE * privacy.epsilon, _LARGEST_EPSILON), evaluations(study)

    def delta(sigma: float) -> float:
        ratio = math.sqrt(releases) / sigma
        near, far = (_normal(side * ratio / 2 - epsilon / ratio) for side in (1, -1))
        return near - math.exp(epsilon) * far

    low, high = 1e-6, largest_multiplier(study, privacy)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta(middle) > privacy.delta else (low, middle)
    return high


def _normal(value: float) -> float:
    """Distribution function of the standard normal."""
    return math.erfc(-value / math.sqrt(2)) / 2


def largest_multiplier(study: StudyProtocol, privacy: PrivacySpec) -> float:
    """Return a noise multiplier of the histograms that no clinic's plan of the study exceeds.

    The plan itself is the clinics' (`melfed.client.privacy.plan`). Here is the σ that zero-concentrated differential
    privacy asks for (Bun & Steinke, arXiv 1605.02065, proposition 1.3): never less than the exact one, and up to about
    twice as much. A study that states its own σ is bounded by `LARGEST_MULTIPLIER` alone.
    """
    if privacy.epsilon is None:
        return LARGEST_MULTIPLIER
    logarithm, epsilon = -math.log(privacy.delta), EVALUATION_SHARE * min(privacy.epsilon, 4 * _LARGEST_EPSILON)
    root = epsilon / (math.sqrt(logarithm + epsilon) + math.sqrt(logarithm))  # of ρ, without cancellation
    return min(_SLACK * math.sqrt(evaluations(study) / 2) / root, LARGEST_MULTIPLIER)
