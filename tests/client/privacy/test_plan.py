"""A study's plan: its noise, and that all of its mechanisms together cost no more than it states."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy import plan
from melfed.client.privacy.accounting import Mechanism, epsilon
from melfed.client.privacy.plan import PrivacyPlan, plan_of, privacy_of
from melfed.common.errors import StudyError
from melfed.common.study.evaluation_noise import (
    EVALUATION_SHARE,
    LARGEST_MULTIPLIER,
)
from melfed.common.study.protocol import StudyProtocol

DELTA = 1e-5


def study(federation: dict[str, object] | None = None, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "epsilon": None if "noise_multiplier" in privacy else 3.0, "recipe": "manual"}
    content = {"federation": {"rounds": 6, **(federation or {})}, "privacy": {**stated, **privacy}}
    return StudyProtocol.model_validate(content)


def planned(federation: dict[str, object] | None = None, **privacy: object) -> PrivacyPlan:
    return plan_of(study(federation, **privacy))


def everything(of: PrivacyPlan) -> list[Mechanism]:
    """What a clinic's ledger holds after a run without retries."""
    evaluations = [of.evaluation] * of.releases if of.evaluation else []
    return [of.counts, *[of.training] * of.rounds, *evaluations]


@pytest.mark.parametrize(
    ("federation", "privacy"),
    [
        ({}, {}),
        ({}, {"epsilon": 1.0, "steps": 3}),
        ({}, {"epsilon": 8.0, "evaluation": "public"}),
        ({"validate_every": 2}, {"sampling_rate": 0.2, "steps": 4}),
        ({"validate_every": 6}, {"sampling_rate": 0.5, "evaluation": "public", "delta": 1e-6}),
        ({"rounds": 1}, {"epsilon": 0.5}),
    ],
)
def test_all_mechanisms_together_cost_what_the_study_states_and_no_more(
    federation: dict[str, object], privacy: dict[str, object]
) -> None:
    stated, delta = privacy.get("epsilon", 3.0), privacy.get("delta", DELTA)
    of = planned(federation, **privacy)
    spent = epsilon(everything(of), delta)
    assert spent == of.epsilon
    assert 0.99 * stated < spent <= stated
    # Each release is in it: with one round more, or one evaluation more, it would be too much.
    assert epsilon([*everything(of), of.training], delta) > stated
    assert of.training.steps == privacy.get("steps", 1)
    assert of.training.sampling_rate == privacy.get("sampling_rate", 1.0)
    if of.evaluation:
        assert epsilon([*everything(of), of.evaluation], delta) > stated
        assert (of.evaluation.sampling_rate, of.evaluation.steps) == (1.0, 1)
        alone = epsilon([of.evaluation] * of.releases, delta)
        assert 0.99 * EVALUATION_SHARE * stated < alone <= EVALUATION_SHARE * stated


def test_public_evaluation_costs_nothing_and_leaves_all_to_the_steps() -> None:
    public, noised = planned(evaluation="public"), planned()
    assert (public.evaluation, public.releases) == (None, 0)
    assert public.training.noise_multiplier < noised.training.noise_multiplier
    assert epsilon([public.counts, *[public.training] * 6], DELTA) == public.epsilon


def test_a_stated_sigma_is_kept_and_the_evaluation_costs_its_share() -> None:
    of = planned(noise_multiplier=2.0, sampling_rate=0.5, steps=2)
    assert of.training == Mechanism(0.5, 2.0, 2)
    assert of.evaluation is not None
    steps = epsilon([of.training] * of.rounds, DELTA)
    alone = epsilon([of.evaluation] * of.releases, DELTA)
    assert alone / (alone + steps) == pytest.approx(EVALUATION_SHARE, rel=0.01)
    assert steps < of.epsilon <= (alone + steps) * 1.01, "and counts cost next to nothing"
    assert of.epsilon == epsilon(everything(of), DELTA)


@pytest.mark.parametrize("evaluation", ["noised", "public"])
def test_without_noise_nothing_is_claimed(evaluation: str) -> None:
    of = planned(noise_multiplier=0.0, evaluation=evaluation)
    assert of.epsilon == math.inf
    assert of.training.noise_multiplier == 0.0
    assert of.evaluation == (None if evaluation == "public" else Mechanism(1.0, 0.0, 1))


def test_less_sampling_needs_less_noise_and_more_rounds_more() -> None:
    few = planned(evaluation="public", sampling_rate=0.2)
    all_ = planned(evaluation="public")
    more = planned({"rounds": 24}, evaluation="public")
    sigmas = [of.training.noise_multiplier for of in (few, all_, more)]
    assert sigmas == sorted(sigmas)
    # Full batches compose like one Gaussian: four times the steps need twice the noise.
    assert sigmas[2] == pytest.approx(2 * sigmas[1], rel=2e-3)


@given(st.floats(0.05, 20), st.sampled_from([1e-6, 1e-5, 1e-4]), st.integers(1, 100), st.integers(1, 20))
@settings(deadline=None, max_examples=5)
def test_full_batches_never_cost_more_than_stated(stated: float, delta: float, rounds: int, every: int) -> None:
    of = planned({"rounds": rounds, "validate_every": every}, epsilon=stated, delta=delta)
    assert 0.99 * stated < epsilon(everything(of), delta) <= stated


def test_the_plan_is_the_same_whatever_else_differs() -> None:
    one = planned()
    assert plan_of(study().model_copy(update={"name": "other", "seed": 5})).training == one.training


def test_a_study_without_privacy_has_no_plan() -> None:
    with pytest.raises(StudyError, match="study study has no privacy section"):
        privacy_of(StudyProtocol())
    with pytest.raises(StudyError):
        plan_of(StudyProtocol())


@pytest.mark.parametrize("privacy", [{"epsilon": 1e-4}, {"noise_multiplier": 1e6}, {"noise_multiplier": 2e4}])
def test_an_evaluation_that_would_drown_is_refused_before_anything_is_trained(privacy: dict[str, float]) -> None:
    expected = "6 noised evaluations within ε .* would be nothing but noise; allow a larger privacy.epsilon, validate"
    with pytest.raises(StudyError, match=expected.replace(".epsilon", r"\.epsilon")) as excinfo:
        planned(**privacy)
    assert "\n" not in str(excinfo.value)
    assert planned(**privacy, evaluation="public").evaluation is None


def test_noise_of_the_evaluation_up_to_the_limit_is_planned() -> None:
    of = planned({"rounds": 1}, epsilon=2e-3)
    assert of.evaluation is not None
    assert 1000 < of.evaluation.noise_multiplier <= LARGEST_MULTIPLIER


def test_the_composition_is_checked_by_other_accountants(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[Mechanism], float]] = []
    original = plan.cross_check

    def disagree(history: list[Mechanism], delta: float) -> None:
        asked.append((history, delta))
        original(history, delta)
        raise StudyError("the accountants disagree")

    monkeypatch.setattr(plan, "cross_check", disagree)
    with pytest.raises(StudyError, match="disagree"):
        planned({"rounds": 3}, epsilon=2.5, steps=2)
    ((history, delta),) = asked
    assert sum(row.steps for row in history) == 3 * 2 + 3 + 1
    assert epsilon(history, delta) <= 2.5
