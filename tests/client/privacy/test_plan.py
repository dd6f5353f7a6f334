"""A study's plan: its noise, and that all of its mechanisms together cost no more than it states."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.approval.run_budget import whole_run
from melfed.client.privacy import plan
from melfed.client.privacy.accounting import Mechanism, epsilon
from melfed.client.privacy.plan import PrivacyPlan, adopt, plan_of, privacy_of
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
    subgroups = [of.subgroups] * of.subgroup_releases if of.subgroups else []
    baselines = [of.baseline] * of.baseline_releases if of.baseline else []
    return [of.counts, *[of.training] * of.rounds, *evaluations, *subgroups, *baselines]


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


@pytest.mark.parametrize(
    ("federation", "privacy"),
    [({}, {}), ({"rounds": 60}, {"epsilon": 1.0}), ({}, {"epsilon": 8.0, "steps": 3, "evaluation": "public"})],
)
def test_moments_and_rounds_together_cost_what_the_study_states(
    federation: dict[str, object], privacy: dict[str, object]
) -> None:
    stated = {"unit": "patient", "epsilon": 3.0, "recipe": "manual", **privacy}
    content = {
        "model": {"neck": 4, "train": "head"},
        "federation": {"rounds": 6, "start": "one_round", **federation},
        "privacy": stated,
    }
    of = plan_of(StudyProtocol.model_validate(content))
    assert of.moments is not None
    assert (of.moments.steps, of.moments.sampling_rate, of.rounds) == (1, 1.0, content["federation"]["rounds"])  # type: ignore[index]
    history = [*everything(of), of.moments]
    spent = epsilon(history, DELTA)
    assert spent == of.epsilon
    assert 0.99 * stated["epsilon"] < spent <= stated["epsilon"]
    assert epsilon([*history, of.moments], DELTA) > stated["epsilon"], "a second release would be too much"
    alone = planned(federation, **privacy)
    assert alone.training.noise_multiplier < of.training.noise_multiplier < 1.1 * alone.training.noise_multiplier
    assert sum(part.times for part in whole_run(of) if part.purpose == "moments") == 1


def test_a_stated_sigma_is_that_of_the_steps_and_moments_come_on_top() -> None:
    content = {
        "model": {"neck": 4, "train": "head"},
        "federation": {"rounds": 6, "start": "one_round"},
        "privacy": {"unit": "patient", "noise_multiplier": 5.0, "recipe": "manual", "evaluation": "public"},
    }
    of = plan_of(StudyProtocol.model_validate(content))
    assert of.moments is not None
    assert of.training.noise_multiplier == 5.0
    assert of.epsilon == epsilon([*everything(of), of.moments], DELTA)
    assert of.epsilon > planned(noise_multiplier=5.0, evaluation="public").epsilon


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


def test_what_was_adopted_is_the_plan_whatever_else_the_study_says() -> None:
    asked = study(epsilon=2.75)
    other = dataclasses.replace(planned(), epsilon=0.5)
    adopt(asked, other)
    try:
        assert plan_of(asked.model_copy(update={"name": "other", "seed": 7})) is other
    finally:
        plan._ADOPTED.clear()
        plan._plan_of.cache_clear()
    assert plan_of(asked) != other


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


@pytest.mark.parametrize("strength", [{"epsilon": 3.0}, {"epsilon": None, "noise_multiplier": 2.0}])
def test_a_second_model_is_paid_for_as_twice_the_steps(strength: dict[str, object]) -> None:
    """Of Ditto, whose clinics train a model of their own beside the global one."""
    common = {"sampling_rate": 0.5, "evaluation": "public", **strength}
    two = planned({"algorithm": "ditto"}, steps=2, **common)
    one = planned({"algorithm": "fedavg"}, steps=4, **common)
    assert (two.training, two.epsilon, two.counts) == (one.training, one.epsilon, one.counts)


@pytest.mark.parametrize(
    ("federation", "stated"),
    [({}, {}), ({"stop": {}, "validate_every": 2}, {"epsilon": 1.0}), ({"rounds": 1}, {"epsilon": 8.0, "steps": 3})],
)
def test_subgroups_are_within_what_the_study_states(federation: dict[str, object], stated: dict[str, object]) -> None:
    plain = study(federation, **stated)
    asked = plain.with_changes("evaluation", subgroups=("age", "sex", "source"))
    of, without, most = plan_of(asked), plan_of(plain), stated.get("epsilon", 3.0)
    assert of.subgroups is not None
    assert (of.subgroups.sampling_rate, of.subgroups.steps) == (1.0, 1)
    assert of.subgroup_releases == (2 if "stop" in federation else 1)
    assert of.evaluation == without.evaluation, "what is told of all does not suffer"
    spent = epsilon(everything(of), DELTA)
    assert spent == of.epsilon
    assert 0.99 * most < spent <= most
    assert epsilon([*everything(of), of.subgroups], DELTA) > most
    assert of.training.noise_multiplier > without.training.noise_multiplier
    planned_parts = {part.purpose: (part.mechanism, part.times) for part in whole_run(of)}
    assert planned_parts["subgroups"] == (of.subgroups, of.subgroup_releases)


def test_subgroups_by_clinic_or_of_public_images_cost_nothing() -> None:
    for asked, attributes in ((study(), ("source",)), (study(evaluation="public"), ("age", "sex"))):
        of = plan_of(asked.with_changes("evaluation", subgroups=attributes))
        assert (of.subgroups, of.subgroup_releases) == (None, 0)
        assert of == plan_of(asked)


def test_a_stated_sigma_is_kept_and_subgroups_come_on_top() -> None:
    asked = study(noise_multiplier=4.0)
    of = plan_of(asked.with_changes("evaluation", subgroups=("site",)))
    assert of.training == plan_of(asked).training
    assert of.epsilon > plan_of(asked).epsilon
    assert of.epsilon == epsilon(everything(of), DELTA)


@pytest.mark.parametrize("federation", [{}, {"stop": {}}])
def test_a_model_of_the_clinics_own_is_paid_for_as_twice_the_steps_and_a_release(federation: dict[str, object]) -> None:
    plain = study(federation, steps=3)
    of, without = plan_of(plain.with_changes("evaluation", local_baseline=True)), plan_of(plain)
    assert of.training.steps == 6
    assert (of.baseline, of.baseline_releases) == (without.evaluation, 2 if federation else 1)
    spent = epsilon(everything(of), DELTA)
    assert spent == of.epsilon
    assert 0.99 * 3.0 < spent <= 3.0
    assert epsilon([*everything(of), of.training], DELTA) > 3.0
    assert {part.purpose: part.times for part in whole_run(of)}["baseline"] == of.baseline_releases
    public = plan_of(study(evaluation="public").with_changes("evaluation", local_baseline=True))
    assert (public.baseline, public.baseline_releases, public.training.steps) == (None, 0, 2)
