"""What a study's privacy costs a clinic: the noise of its steps and of its histograms, and what each round spends."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from melfed.client.privacy.accounting import Mechanism, cross_check, epsilon, noise_multiplier
from melfed.common.errors import StudyError
from melfed.common.study.count_noise import COUNTS_SHARE, FAINTEST
from melfed.common.study.evaluation_noise import (
    EVALUATION_SHARE,
    LARGEST_MULTIPLIER,
    evaluations,
    final_evaluations,
    noised_attributes,
    subgroups_multiplier,
)
from melfed.common.study.moments_noise import of_moments, of_step
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.common.study.step_plan import trainings

LARGEST_TOLD = 700.0
"""Largest ε that the accountant tells from infinity."""


@dataclass(frozen=True)
class PrivacyPlan:
    """The mechanisms of a study, the same at every clinic.

    Attributes:
        privacy: what the study states.
        training: one round's steps.
        rounds: how often a clinic may be asked for one; 0 where it releases moments in their place.
        moments: the one release of moments; None where the study asks for none.
        evaluation: one release of histograms; None where the evaluation images are public.
        releases: how many of these.
        counts: the one release of a run's numbers of units: by part those that are positive, and the others. A unit
            moves one of them by 1.
        epsilon: of all of it, at the study's delta, by PLD; infinite without noise.
        subgroups: one release of the test part by all attributes of `evaluation.subgroups` together; None where the
            study asks for none, or its evaluation images are public.
        subgroup_releases: how many of these.
        baseline: one release of the test histogram of the clinic's own model (`evaluation.local_baseline`), whose steps
            are in `training`; None where there is no such model, or its evaluation images are public.
        baseline_releases: how many of these.
    """

    privacy: PrivacySpec
    training: Mechanism
    rounds: int
    evaluation: Mechanism | None
    releases: int
    counts: Mechanism
    epsilon: float
    moments: Mechanism | None = None
    subgroups: Mechanism | None = None
    subgroup_releases: int = 0
    baseline: Mechanism | None = None
    baseline_releases: int = 0


def privacy_of(study: StudyProtocol) -> PrivacySpec:
    """Return the study's privacy section. Raises StudyError where it has none."""
    if study.privacy is None:
        raise StudyError(f"study {study.name} has no privacy section")
    return study.privacy


def plan_of(study: StudyProtocol) -> PrivacyPlan:
    """Return a study's plan: σ from ε where the study states ε, with the rest as stated.

    It follows from the sections `privacy`, `federation` and `evaluation` alone. The composition is checked by two other
    accountants (`cross_check`) before anything is trained by it.

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
    privacy_of(study)
    return _plan_of(_planned(study))


_BESIDE: Final = {
    name: getattr(StudyProtocol(), name)
    for name in ("name", "data", "partition", "model", "training", "resources", "seed")
}
_ADOPTED: Final[dict[StudyProtocol, PrivacyPlan]] = {}


def _planned(study: StudyProtocol) -> StudyProtocol:
    """Return a study with what its plan follows from alone: whatever else it says, it is planned once."""
    evaluation = study.evaluation.model_copy(update={"operating_points": ()})  # they are chosen of what was released
    return study.model_copy(update={**_BESIDE, "evaluation": evaluation})


def adopt(study: StudyProtocol, plan: PrivacyPlan) -> None:
    """Take over what another process of the same machine and owner has planned and checked for a study."""
    _ADOPTED[_planned(study)] = plan


@lru_cache(maxsize=16)
def _plan_of(study: StudyProtocol) -> PrivacyPlan:
    if study in _ADOPTED:
        return _ADOPTED[study]
    privacy, rounds = privacy_of(study), study.federation.rounds
    a_round = _steps_a_round(study, privacy)
    q, delta, steps = privacy.sampling_rate, privacy.delta, rounds * a_round
    releases = 0 if privacy.evaluation == "public" else evaluations(study)
    if privacy.epsilon is not None:
        counts = _counts(privacy.epsilon, delta)
        evaluation = _evaluation(EVALUATION_SHARE * privacy.epsilon, delta, releases)
        others = _others(study, evaluation, releases, counts)
        if _solved_start(study):
            sigma = of_step(study, noise_multiplier(privacy.epsilon, delta, 1.0, 1, others))
        else:
            sigma = noise_multiplier(privacy.epsilon, delta, q, steps, others)
    else:
        sigma = privacy.noise_multiplier or 0.0
        spent = epsilon(_learning(study, privacy, sigma), delta)
        counts = _counts(spent, delta)
        # The same share of the total as above.
        evaluation = _evaluation(spent * EVALUATION_SHARE / (1 - EVALUATION_SHARE), delta, releases)
        others = _others(study, evaluation, releases, counts)
    history = [*_learning(study, privacy, sigma), *others]
    total = cross_check(history, delta).pld if sigma > 0 else math.inf
    training, subgroups = Mechanism(q, sigma, a_round), _subgroups(study, evaluation)
    ends, baseline = final_evaluations(study), _baseline(study, evaluation)
    more = subgroups, ends if subgroups else 0, baseline, ends if baseline else 0
    if study.federation.mode == "one_round":
        # One full batch in place of the one step.
        return PrivacyPlan(privacy, training, 0, evaluation, releases, counts, total, training, *more)
    moments = Mechanism(1.0, of_moments(study, sigma), 1) if _solved_start(study) else None
    return PrivacyPlan(privacy, training, rounds, evaluation, releases, counts, total, moments, *more)


def _steps_a_round(study: StudyProtocol, privacy: PrivacySpec) -> int:
    """Return how many noisy steps a clinic takes a round: a second model is trained by steps of its own."""
    return privacy.steps * trainings(study)


def _solved_start(study: StudyProtocol) -> bool:
    """Tell whether rounds of training follow a release of moments."""
    return study.federation.asks_for_moments and study.federation.mode != "one_round"


def _learning(study: StudyProtocol, privacy: PrivacySpec, sigma: float) -> list[Mechanism]:
    """Return what a run spends on its model: all steps of this σ, and the moments that they begin with."""
    steps = Mechanism(privacy.sampling_rate, sigma, study.federation.rounds * _steps_a_round(study, privacy))
    return [steps, *([Mechanism(1.0, of_moments(study, sigma), 1)] if _solved_start(study) else [])]


def _others(study: StudyProtocol, evaluation: Mechanism | None, releases: int, counts: Mechanism) -> list[Mechanism]:
    """Return what a run spends besides its steps."""
    told = [Mechanism(1.0, evaluation.noise_multiplier, releases)] if evaluation else []
    if (subgroups := _subgroups(study, evaluation)) is not None:
        told.append(Mechanism(1.0, subgroups.noise_multiplier, final_evaluations(study)))
    if (baseline := _baseline(study, evaluation)) is not None:
        told.append(Mechanism(1.0, baseline.noise_multiplier, final_evaluations(study)))
    return [*told, counts]


def _baseline(study: StudyProtocol, evaluation: Mechanism | None) -> Mechanism | None:
    """Return the mechanism of one release of the clinic's own model's scores: that of any other of its histograms."""
    return evaluation if study.evaluation.local_baseline else None


def _subgroups(study: StudyProtocol, evaluation: Mechanism | None) -> Mechanism | None:
    """Return the mechanism of one release of subgroups; None where there is none."""
    if evaluation is None or not noised_attributes(study):
        return None
    return Mechanism(1.0, subgroups_multiplier(study, evaluation.noise_multiplier), 1)


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
