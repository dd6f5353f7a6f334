"""The noise of a clinic's moments, as a coordinator knows it without an accountant."""

import math
from pathlib import Path

import pytest
from scipy.stats import norm

from melfed.client.privacy.plan import plan_of
from melfed.common.study.count_noise import COUNTS_SHARE
from melfed.common.study.evaluation_noise import EVALUATION_SHARE
from melfed.common.study.moments_noise import LARGEST_MULTIPLIER, largest_moments_multiplier, moments_multiplier
from melfed.common.study.protocol import PrivacySpec
from tests.common.moments.test_expected import study_of
from tests.common.runs import finished_run, public_model


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "run", public_model(neck=16))


def privacy(epsilon: float | None, delta: float = 1e-5, **stated: object) -> PrivacySpec:
    return PrivacySpec.model_validate({"unit": "patient", "epsilon": epsilon, "delta": delta, **stated})


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
    assert largest_moments_multiplier(privacy(None, noise_multiplier=1.25)) == LARGEST_MULTIPLIER


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 1e-2])
def test_the_largest_is_above_any_plan_and_falls_with_epsilon(delta: float) -> None:
    epsilons = [0.01, 0.1, 1.0, 8.0, 300.0, 700.0]
    largest = [largest_moments_multiplier(privacy(epsilon, delta)) for epsilon in epsilons]
    assert largest == sorted(largest, reverse=True)
    for epsilon, bound in zip(epsilons, largest, strict=True):
        assert moments_multiplier(privacy(epsilon, delta)) < bound
    # Zero-concentrated privacy of half of ε, by hand: √ρ = √(L + ε/2) - √L, and σ = 1.05 / √(2 ρ).
    root = math.sqrt(-math.log(delta) + 0.5) - math.sqrt(-math.log(delta))
    assert largest[2] == pytest.approx(1.05 / (math.sqrt(2) * root))
    assert largest_moments_multiplier(privacy(1e4, delta)) == largest_moments_multiplier(privacy(700.0, delta))


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("evaluation", ["noised", "public"])
def test_the_noise_is_that_of_the_clinics_plan(public: Path, epsilon: float, evaluation: str) -> None:
    study = study_of(public, 100, epsilon, evaluation=evaluation)
    plan = plan_of(study)
    assert plan.moments is not None
    assert study.privacy is not None
    assert moments_multiplier(study.privacy) == pytest.approx(plan.moments.noise_multiplier, rel=0.01)
    assert plan.moments.noise_multiplier <= largest_moments_multiplier(study.privacy)
