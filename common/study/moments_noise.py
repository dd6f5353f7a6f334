"""How much noise a clinic's moments have: what a coordinator plans by, and believes.

Where rounds of training begin at a solved head (`federation.start: one_round`), a clinic pays for the moments and for
all steps of the rounds. Both are Gaussian mechanisms, whose squared μ = 1/σ² add up (Dong, Roth & Su, arXiv 1905.02383,
corollary 3.3): of the μ² that the study's ε leaves to the two, the moments get the part `START_SHARE`, s.

**Which part.** Near its optimum the loss of a head is quadratic, with a curvature λ along a whitened feature. T steps
of the effective rate η contract the distance to the optimum by e^(-t), t = ηλT, and leave noise: with σ = √T/μ in each,
a variance of t (1 - e^(-2t)) / 2 · 1/(1 - s), in units of 1/(μ λ N)² for N patients. A head that is solved from moments
is wrong by a / s in the same unit. The first moment alone would make a = 3, the squared sensitivity; the noise of the
second moment, which meets a head of length √d c (logits with a standard deviation of c), makes it
a = 3 (1 + κ² c² d / 2) with λ = κ / d, less what the solver takes out. Together

    e^(-2t) a / s + t (1 - e^(-2t)) / (2 (1 - s)),

which for a given t is least at s = √A / (√A + √B), for A = e^(-2t) a and B = t (1 - e^(-2t)) / 2, where it is
(√A + √B)². The best t and s then depend on a alone: for a = 3, 13 (64 features, κ = 0.2, c = 1.6) and 30 they are
t = 1.8, 2.8 and 3.3, s = 0.23, 0.15 and 0.13. That of 64 features is taken, whatever ε, patients and features are:
near the least, other parts cost little.
"""

import math

from melfed.common.study.count_noise import COUNTS_SHARE
from melfed.common.study.evaluation_noise import EVALUATION_SHARE
from melfed.common.study.protocol import PrivacySpec, StudyProtocol

START_SHARE = 0.15
"""Part of the squared μ of steps and moments together that moments have, where rounds begin at a solved head."""
ASSUMED_EPSILON = 1.0
"""For a study that states σ instead of ε: the cautious side."""
LARGEST_MULTIPLIER = 1e6
"""The largest σ that a study can state."""
_LEFT = 0.5
"""Part of ε that moments have by themselves, at least: histograms and counts use up less than the other half."""
_LARGEST_EPSILON = 700.0
"""What a larger one is taken for by the accountant."""
_SLACK = 1.05
"""Accountants round towards more noise; for a δ near the end of their arithmetic by some hundredths."""


def of_moments(study: StudyProtocol, training: float) -> float:
    """Return σ of the moments of a study whose steps have σ `training` each; of one round, that of its one release."""
    if study.federation.mode == "one_round" or study.privacy is None:
        return training
    steps = study.federation.rounds * study.privacy.steps
    return training * math.sqrt((1 - START_SHARE) / (START_SHARE * steps))


def of_step(study: StudyProtocol, whole: float) -> float:
    """Return σ of each step, where steps and moments together are to be one Gaussian mechanism of σ `whole`."""
    steps = 1 if study.privacy is None else study.federation.rounds * study.privacy.steps
    return whole * math.sqrt(steps / (1 - START_SHARE))


def moments_multiplier(privacy: PrivacySpec, *, subgroups: bool = False) -> float:
    """Return σ of the moments of one round, but for an accountant's rounding; the plan itself is the clinics'.

    All that a clinic releases in such a study are Gaussian mechanisms, whose μ = 1/σ add up in squares (Dong, Roth &
    Su, arXiv 1905.02383): that of the study's ε, less what histograms and counts have.

    Args:
        privacy: of the study.
        subgroups: whether its test part is told by subgroups too, which costs as much as the histograms.
    """
    if privacy.epsilon is None:
        return privacy.noise_multiplier or 0.0
    whole = _mu(privacy.epsilon, privacy.delta)
    histograms = _mu(EVALUATION_SHARE * privacy.epsilon, privacy.delta) if privacy.evaluation == "noised" else 0.0
    return 1 / math.sqrt(whole**2 * (1 - COUNTS_SHARE) - (2 if subgroups else 1) * histograms**2)


def largest_moments_multiplier(study: StudyProtocol, privacy: PrivacySpec) -> float:
    """Return a noise multiplier of the moments that no clinic's plan of the study exceeds.

    As `melfed.common.study.evaluation_noise.largest_multiplier`: the σ that zero-concentrated differential privacy asks
    for (Bun & Steinke, arXiv 1605.02065, proposition 1.3).
    """
    if privacy.epsilon is None:
        return LARGEST_MULTIPLIER
    logarithm, epsilon = -math.log(privacy.delta), _LEFT * min(privacy.epsilon, _LARGEST_EPSILON)
    root = epsilon / (math.sqrt(logarithm + epsilon) + math.sqrt(logarithm))  # of ρ, without cancellation
    share = 1.0 if study.federation.mode == "one_round" else START_SHARE
    return min(_SLACK * math.sqrt(0.5 / share) / root, LARGEST_MULTIPLIER)


def learning_mu(privacy: PrivacySpec, *, subgroups: bool = False) -> float:
    """Return μ of all that a study learns from: of its ε, less what histograms and counts have.

    The arguments are those of `moments_multiplier`. A study that states σ in place of ε, of which nothing is known
    before its plan, counts as one of `ASSUMED_EPSILON`.
    """
    if privacy.epsilon is None:
        privacy = privacy.model_copy(update={"epsilon": ASSUMED_EPSILON, "noise_multiplier": None})
    return 1 / moments_multiplier(privacy, subgroups=subgroups)


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
