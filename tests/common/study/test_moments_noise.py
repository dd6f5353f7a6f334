"""The noise of a clinic's moments, as a coordinator knows it without an accountant."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from melfed.client.privacy.plan import plan_of
from melfed.common.study.count_noise import COUNTS_SHARE
from melfed.common.study.evaluation_noise import EVALUATION_SHARE
from melfed.common.study.moments_noise import (
    LARGEST_MULTIPLIER,
    START_SHARE,
    largest_moments_multiplier,
    learning_mu,
    moments_multiplier,
    of_moments,
    of_step,
)
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from tests.common.moments.test_expected import study_of
from tests.common.runs import finished_run, public_model


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "run", public_model(neck=16))


def privacy(epsilon: float | None, delta: float = 1e-5, **stated: object) -> PrivacySpec:
    return PrivacySpec.model_validate({"unit": "patient", "epsilon": epsilon, "delta": delta, **stated})


def stating(stated: PrivacySpec, **federation: object) -> StudyProtocol:
    """A study that asks for moments."""
    content = {"mode": "one_round", **federation}
    sections = {"model": {"neck": 4, "train": "head"}, "federation": content, "privacy": dict(stated)}
    return StudyProtocol.model_validate(sections)


def largest_of(stated: PrivacySpec) -> float:
    return largest_moments_multiplier(stating(stated), stated)


def log_delta(mu: float, epsilon: float) -> float:
    """Of one Gaussian mechanism: Balle & Wang 2018, theorem 8, in logarithms, where nothing cancels out early."""
    first, second = norm.logcdf(mu / 2 - epsilon / mu), epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
    return float(first + math.log1p(-math.exp(second - first)))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (3.0, 1e-3), (8.0, 1e-9), (100.0, 1e-6)])
def test_with_public_histograms_moments_have_all_but_what_counts_have(epsilon: float, delta: float) -> None:
    mu = 1 / moments_multiplier(privacy(epsilon, delta, evaluation="public"))
    whole = mu / math.sqrt(1 - COUNTS_SHARE)
    assert log_delta(whole, epsilon) == pytest.approx(math.log(delta), abs=1e-4)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (3.0, 1e-3), (8.0, 1e-9)])
def test_noised_histograms_take_their_share(epsilon: float, delta: float) -> None:
    alone, beside = (
        1 / moments_multiplier(privacy(epsilon, delta, evaluation=kind)) ** 2 for kind in ("public", "noised")
    )
    assert log_delta(math.sqrt(alone - beside), EVALUATION_SHARE * epsilon) == pytest.approx(math.log(delta), abs=1e-4)


def test_a_stated_multiplier_is_itself() -> None:
    assert moments_multiplier(privacy(None, noise_multiplier=1.25)) == 1.25
    assert moments_multiplier(privacy(None, noise_multiplier=0.0)) == 0.0
    assert largest_of(privacy(None, noise_multiplier=1.25)) == LARGEST_MULTIPLIER


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 1e-2])
def test_the_largest_is_above_any_plan_and_falls_with_epsilon(delta: float) -> None:
    epsilons = [0.01, 0.1, 1.0, 8.0, 300.0, 700.0]
    largest = [largest_of(privacy(epsilon, delta)) for epsilon in epsilons]
    assert largest == sorted(largest, reverse=True)
    for epsilon, bound in zip(epsilons, largest, strict=True):
        assert moments_multiplier(privacy(epsilon, delta)) < bound
    # Zero-concentrated privacy of half of ε, by hand: √ρ = √(L + ε/2) - √L, and σ = 1.05 / √(2 ρ).
    root = math.sqrt(-math.log(delta) + 0.5) - math.sqrt(-math.log(delta))
    assert largest[2] == pytest.approx(1.05 / (math.sqrt(2) * root))
    assert largest_of(privacy(1e4, delta)) == largest_of(privacy(700.0, delta))


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("evaluation", ["noised", "public"])
def test_the_noise_is_that_of_the_clinics_plan(public: Path, epsilon: float, evaluation: str) -> None:
    study = study_of(public, 100, epsilon, evaluation=evaluation)
    plan = plan_of(study)
    assert plan.moments is not None
    assert study.privacy is not None
    assert moments_multiplier(study.privacy) == pytest.approx(plan.moments.noise_multiplier, rel=0.01)
    assert plan.moments.noise_multiplier <= largest_moments_multiplier(study, study.privacy)


@pytest.mark.parametrize(("rounds", "steps"), [(1, 1), (60, 1), (20, 3)])
def test_moments_and_steps_are_together_what_one_mechanism_would_be(rounds: int, steps: int) -> None:
    both = stating(privacy(3.0, steps=steps), mode="federated", start="one_round", rounds=rounds)
    whole = 1.7
    step = of_step(both, whole)
    precisions = [rounds * steps / step**2, 1 / of_moments(both, step) ** 2]
    assert math.fsum(precisions) == pytest.approx(1 / whole**2)
    assert precisions[1] * whole**2 == pytest.approx(START_SHARE)
    once = stating(privacy(3.0))
    assert of_moments(once, 1.25) == 1.25


@pytest.mark.parametrize("evaluation", ["noised", "public"])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_moments_before_rounds_are_never_beyond_the_largest(epsilon: float, evaluation: str) -> None:
    stated = privacy(epsilon, evaluation=evaluation, recipe="manual")
    study = stating(stated, mode="federated", start="one_round", rounds=30)
    plan = plan_of(study)
    assert plan.moments is not None
    assert plan.moments.noise_multiplier <= largest_moments_multiplier(study, stated)
    assert plan.moments.noise_multiplier == of_moments(study, plan.training.noise_multiplier)


def test_the_share_of_a_start_is_that_of_least_loss_in_the_quadratic_model() -> None:
    """By brute force over times and shares, for 64 features."""
    share, time = np.meshgrid(np.linspace(0.01, 0.99, 197), np.linspace(0.05, 6, 239))
    a = 3 * (1 + 0.2**2 * 1.6**2 * 64 / 2)
    left, noise = np.exp(-2 * time) * a / share, time * (1 - np.exp(-2 * time)) / 2 / (1 - share)
    total = left + noise
    assert share.flat[total.argmin()] == pytest.approx(START_SHARE, abs=0.01)
    assert time.flat[total.argmin()] == pytest.approx(2.8, abs=0.1)


def test_what_is_learnt_from_has_the_mu_of_the_epsilon_less_all_else() -> None:
    stated = privacy(3.0)
    assert learning_mu(stated) == 1 / moments_multiplier(stated)
    assert learning_mu(privacy(None, noise_multiplier=0.0)) == learning_mu(privacy(1.0))
