"""What a study's privacy costs a clinic: the noise of its steps and of its histograms, and what each round spends."""

import math
from dataclasses import dataclass
from functools import lru_cache

from melfed.client.privacy.accounting import Mechanism, cross_check, epsilon, noise_multiplier
from melfed.common.errors import StudyError
from melfed.common.study.count_noise import COUNTS_SHARE, FAINTEST
from melfed.common.study.evaluation_noise import EVALUATION_SHARE, LARGEST_MULTIPLIER, evaluations
from melfed.common.study.protocol import PrivacySpec, StudyProtocol

LARGEST_TOLD = 700.0
"""Largest ε that the accountant tells from infinity."""


@dataclass(frozen=True)
class PrivacyPlan:
    """The mechanisms of a study, the same at every clinic.

    Attributes:
        privacy: what the study states.
        training: one round's steps.
        rounds: how often a clinic may be asked for one; 0 where it releases moments in their place.
        moments: the one release of moments; None where the study trains in rounds.
        evaluation: one release of histograms; None where the evaluation images are public.
        releases: how many of these.
        counts: the one release of a run's numbers of units: by part those that are positive, and the others. A unit
            moves one of them by 1.
        epsilon: of all of it, at the study's delta, by PLD; infinite without noise.
    """

    privacy: PrivacySpec
    training: Mechanism
    rounds: int
    evaluation: Mechanism | None
    releases: int
    counts: Mechanism
    epsilon: float
    moments: Mechanism | None = None


def privacy_of(study: StudyProtocol) -> PrivacySpec:
    """Return the study's privacy section. Raises StudyError where it has none."""
    if study.privacy is None:
        raise StudyError(f"study {study.name} has no privacy section")
    return study.privacy


@lru_cache(maxsize=16)
def plan_of(study: StudyProtocol) -> PrivacyPlan:
    """Return a study's plan: σ from ε where the study states ε, with the rest as stated.

    The composition is checked by two other accountants (`cross_check`) before anything is trained by it.

    Raises:
        StudyError: no noise is enough for the stated ε, the evaluation would drown in it, or the accountants disagree.

    >>> from melfed.common.study.recipe import resolve
    >>> study, _ = resolve(StudyProtocol(privacy=PrivacySpec(unit="patient", epsilon=3.0)))
    >>> plan = plan_of(study)
    >>> plan.rounds, plan.releases, plan.epsilon <= 3.0
    (60, 1, True)
    >>> round(plan.training.noise_multiplier, 1)
    11.4
    """
    privacy, rounds = privacy_of(study), study.federation.rounds
    q, delta, steps = privacy.sampling_rate, privacy.delta, rounds * privacy.steps
    releases = 0 if privacy.evaluation == "public" else evaluations(study)
    if privacy.epsilon is not None:
        counts = _counts(privacy.epsilon, delta)
        evaluation = _evaluation(EVALUATION_SHARE * privacy.epsilon, delta, releases)
        others = _others(evaluation, releases, counts)
        sigma = noise_multiplier(privacy.epsilon, delta, q, steps, others)
    else:
        sigma = privacy.noise_multiplier or 0.0
        spent = epsilon([Mechanism(q, sigma, steps)], delta)
        counts = _counts(spent, delta)
        # The same share of the total as above.
        evaluation = _evaluation(spent * EVALUATION_SHARE / (1 - EVALUATION_SHARE), delta, releases)
        others = _others(evaluation, releases, counts)
    history = [Mechanism(q, sigma, steps), *others]
    total = cross_check(history, delta).pld if sigma > 0 else math.inf
    training = Mechanism(q, sigma, privacy.steps)
    if study.federation.mode == "one_round":
        # One full batch in place of the one step.
        return PrivacyPlan(privacy, training, 0, evaluation, releases, counts, total, training)
    return PrivacyPlan(privacy, training, rounds, evaluation, releases, counts, total)


def _others(evaluation: Mechanism | None, releases: int, counts: Mechanism) -> list[Mechanism]:
    """Return what a run spends besides its steps."""
    evaluations = [Mechanism(1.0, evaluation.noise_multiplier, releases)] if evaluation else []
    return [*evaluations, counts]


def _counts(total: float, delta: float) -> Mechanism:
    """Return the mechanism of a run's counts, by the ε that the whole run may spend."""
    if total == math.inf:
        return Mechanism(1.0, 0.0, 1)
    if not 0 < total < LARGEST_TOLD:
        # Nothing is to be had; or so much that the accountant tells it from infinity no more.
        return Mechanism(1.0, FAINTEST, 1)
    # σ of the one Gaussian mechanism that would spend it all is 1/μ.
    whole = noise_multiplier(total, delta, 1.0, 1)
    return Mechanism(1.0, min(whole / math.sqrt(COUNTS_SHARE), FAINTEST), 1)


def _evaluation(share: float, delta: float, releases: int) -> Mechanism | None:
    if not releases:
        return None
    if not math.isfinite(share):
        return Mechanism(1.0, 0.0, 1)
    sigma = noise_multiplier(share, delta, 1.0, releases) if share > 0 else math.inf
    if sigma > LARGEST_MULTIPLIER:
        raise StudyError(
            f"{releases} noised evaluations within ε {share:g} would be nothing but noise; allow a larger "
            "privacy.epsilon, validate less often (federation.validate_every), or evaluate on public images "
            "(privacy.evaluation)"
        )
    return Mechanism(1.0, sigma, 1)
