"""What a clinic's policy and approvals leave to one study: how many runs, and how much ε over all of them.

A study that `melfed-client approve` approved has the runs and the ε of its approval. One that `clinic.yaml` alone lets
in (`policy.studies`) has the policy's `runs`. Where no ε is stated, it is that of so many whole runs.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache

from pydantic import Field

from melfed.client.config.policy import ClinicPolicy, budget
from melfed.client.ledger.budget import Allowance, Budget, Planned, times
from melfed.client.privacy.accounting import epsilon
from melfed.client.privacy.plan import PrivacyPlan, plan_of
from melfed.common.study.protocol import Digest, Section, StudyProtocol

MOST_RUNS = 1000


class StudyTerms(Section):
    """What an approval says of how often, at what cost and how fast its study may run."""

    runs: int = Field(1, ge=1, le=MOST_RUNS, description="how many runs")
    epsilon: float | None = Field(
        None, gt=0, le=1e4, description="largest ε of all of them, at the study's δ; null: that of so many whole runs"
    )
    round_minutes: int | None = Field(
        None, ge=1, description="a round here at most, a power of two, timed on synthetic images; null: not timed"
    )


class ApprovedPolicy(ClinicPolicy):
    """A policy as it stands with the clinic's approvals; no file is read as one."""

    terms: Mapping[Digest, StudyTerms] = Field(default_factory=dict, description="of the studies that were approved")
    names: Mapping[Digest, str] = Field(
        default_factory=dict, description="of those whose names may be told, the oldest approval first"
    )

    def approved_as(self, name: str) -> tuple[Digest, ...]:
        """Return the digests under which studies of a name are approved, the newest last, as far as may be told."""
        return tuple(digest for digest, known in self.names.items() if known == name)


def terms_of(policy: ClinicPolicy, digest: str) -> StudyTerms:
    """Return how often a study may run, and the ε that was stated for it."""
    stated = policy.terms.get(digest) if isinstance(policy, ApprovedPolicy) else None
    return stated or StudyTerms(runs=policy.runs)


def whole_run(plan: PrivacyPlan) -> tuple[Planned, ...]:
    """Return all that a clinic is charged in one run of a study that nothing goes wrong in."""
    parts = [Planned("counts", plan.counts, 1), Planned("training", plan.training, plan.rounds)]
    if plan.moments is not None:
        parts.append(Planned("moments", plan.moments, 1))
    if plan.evaluation is not None:
        parts.append(Planned("evaluation", plan.evaluation, plan.releases))
    if plan.subgroups is not None:
        parts.append(Planned("subgroups", plan.subgroups, plan.subgroup_releases))
    if plan.baseline is not None:
        parts.append(Planned("baseline", plan.baseline, plan.baseline_releases))
    return tuple(parts)


@lru_cache(maxsize=64)
def epsilon_of_runs(plan: PrivacyPlan, runs: int) -> float:
    """Return ε, at the study's δ, of so many whole runs; infinite without noise."""
    return epsilon([times(part.mechanism, part.times * runs) for part in whole_run(plan)], plan.privacy.delta)


def allowance(policy: ClinicPolicy, study: StudyProtocol) -> Allowance:
    """Return what a policy lets a private study have. Raises StudyError as `plan_of`."""
    terms, plan = terms_of(policy, study.digest), plan_of(study)
    most = epsilon_of_runs(plan, terms.runs) if terms.epsilon is None else terms.epsilon
    return Allowance(terms.runs, most, plan.privacy.delta)


def limits(policy: ClinicPolicy | None, study: StudyProtocol) -> Budget:
    """Return all that bounds the charges of a private study; without a policy (a simulation) its own ε alone.

    Raises:
        StudyError: as `melfed.client.privacy.plan.plan_of`.
    """
    whole = budget(policy, study)
    if policy is None:
        return whole
    return dataclasses.replace(whole, study=allowance(policy, study), plan=whole_run(plan_of(study)))


def stated_epsilon(study: StudyProtocol, runs: int) -> float | None:
    """Return the ε of so many whole runs as an approval states it; None where nothing bounds it."""
    if study.privacy is None:
        return None
    most = epsilon_of_runs(plan_of(study), runs)
    return most if math.isfinite(most) else None
