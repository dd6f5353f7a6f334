"""Heads that are solved from moments, against what is known of them."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from melfed.common.errors import DataError
from melfed.common.moments.noisy_moments import (
    SCALE,
    SENSITIVITY,
    NoisyMoments,
    noise_variance,
    triangle,
    vectors,
)
from melfed.common.moments.solvers import LEAST_RIDGE, SOLVERS, Wanted, denoised, noise_ridge, solve

D = 12
Floats = npt.NDArray[np.float64]


def units(seed: int, count: int = 4000, spread: float = 1.0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Features of two normal classes, hardly any longer than 1; half of them vary more in positives."""
    random = np.random.default_rng(seed)
    targets = (random.random(count) < 0.2).astype(np.int64)
    scale = np.tile([0.4, 0.05], D // 2)
    wider = np.where((np.arange(D) < D // 2) & (targets[:, None] == 1), spread, 1.0)
    x = random.normal(size=(count, D)) * scale * wider
    return x + targets[:, None] * 0.4 * scale, targets


def moments_of(x: Floats, y: npt.NDArray[np.int64], sigma: float = 0.0, seed: int = 0) -> NoisyMoments:
    random = np.random.default_rng(seed)
    sums = [np.trunc(vectors(x[y == c]) * SCALE).astype(np.int64).sum(0) for c in (1, 0)]
    noised = [each + np.rint(random.normal(size=each.shape) * sigma * SENSITIVITY).astype(np.int64) for each in sums]
    return NoisyMoments(*noised, noise_variance(sigma))


def cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_without_noise_ridge_is_least_squares() -> None:
    x, y = units(0)
    moments, weights = moments_of(x, y), np.where(y, 3.0, 1.0)
    oracle = Ridge(alpha=noise_ridge(moments)).fit(x, 2.0 * y - 1, sample_weight=weights)
    assert cosine(solve("ridge", moments, Wanted(positive_weight=3.0)).weight, oracle.coef_) > 1 - 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_drowned_in_noise_is_the_public_head_and_not_none(solver: str) -> None:
    x, y = units(0)
    public = solve("logistic", moments_of(*units(3, 400)), Wanted()).weight
    wanted = Wanted(ridge=100.0, public=tuple(public.tolist()))
    assert abs(cosine(solve(solver, moments_of(x, y, sigma=5.0), wanted).weight, public)) > 0.99
    # What the moments can tell they tell, whatever was known before.
    clear = moments_of(x, y)
    found = solve(solver, clear, Wanted(public=wanted.public)).weight
    assert cosine(found, solve(solver, clear, Wanted()).weight) > 0.98


def test_a_public_head_that_knows_something_is_worth_it() -> None:
    x, y = units(0)
    fresh = units(9, 20_000)
    known = solve("logistic", moments_of(*units(3, 400)), Wanted()).weight
    aurocs = {
        public: np.mean(
            [
                roc_auc_score(fresh[1], fresh[0] @ solve("logistic", moments_of(x, y, 12.0, seed), wanted).weight)
                for seed in range(8)
            ]
        )
        for public, wanted in ((True, Wanted(public=tuple(known.tolist()))), (False, Wanted()))
    }
    assert aurocs[True] > aurocs[False] + 0.02


def test_without_noise_the_discriminant_is_fishers() -> None:
    x, y = units(1)
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    head = solve("discriminant", moments_of(x, y), Wanted(ridge=1e-9))
    assert head.weight == pytest.approx(oracle.coef_[0], rel=1e-3)
    assert head.bias == pytest.approx(oracle.intercept_[0], rel=1e-3)


def test_without_noise_the_logistic_head_is_nearly_that_of_all_units() -> None:
    x, y = units(2, spread=3.0)
    oracle = LogisticRegression(C=1e4, max_iter=2000).fit(x, y).coef_[0]
    moments = moments_of(x, y)
    logistic, fisher = (solve(name, moments, Wanted(ridge=1e-3)).weight for name in ("logistic", "discriminant"))
    assert cosine(logistic, oracle) > 0.998
    # Where the classes vary differently, it is not Fisher's.
    assert 1 - cosine(logistic, oracle) < 0.5 * (1 - cosine(fisher, oracle))


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_costs_little_where_it_is_known(solver: str) -> None:
    x, y = units(3)
    fresh, targets = units(3, count=8000)
    exact = solve(solver, moments_of(x, y), Wanted())
    noised = [solve(solver, moments_of(x, y, 2.0, seed), Wanted()) for seed in range(5)]
    best = roc_auc_score(targets, fresh @ exact.weight)
    found = [roc_auc_score(targets, fresh @ head.weight) for head in noised]
    assert best - 0.05 < np.mean(found) <= best + 0.005
    # As if there were no noise, the directions that vary least would decide.
    careless = [solve(solver, moments_of(x, y, 2.0, seed), Wanted(ridge=1e-6)) for seed in range(5)]
    assert np.mean([roc_auc_score(targets, fresh @ head.weight) for head in careless]) < np.mean(found) - 0.02


def test_the_ridge_is_the_edge_of_the_noises_spectrum() -> None:
    d, sigma = 80, 3.0
    random = np.random.default_rng(0)
    nobody = [np.rint(random.normal(size=1 + d + d * (d + 1) // 2) * sigma * SENSITIVITY).astype(np.int64)] * 2
    nobody[1] = np.rint(random.normal(size=len(nobody[0])) * sigma * SENSITIVITY).astype(np.int64)
    moments = NoisyMoments(*nobody, noise_variance(sigma))
    values = np.linalg.eigvalsh(moments.second("positives") + moments.second("negatives"))
    assert np.abs(values).max() == pytest.approx(noise_ridge(moments), rel=0.1)
    assert np.array_equal(triangle(2)[2], [1, math.sqrt(2), 1])


def test_without_noise_a_little_ridge_is_left() -> None:
    x, y = units(4)
    within = np.concatenate([x[y == c] - x[y == c].mean(0) for c in (0, 1)])
    assert noise_ridge(moments_of(x, y)) == pytest.approx(LEAST_RIDGE * (within**2).sum() / D, rel=1e-5)


def test_what_is_denoised_is_nearer_to_the_truth_and_never_negative() -> None:
    random, d, std = np.random.default_rng(0), 64, 1.0
    truth = np.diag(np.linspace(0, 40, d))
    noise = random.normal(size=(d, d)) * std
    noise = (noise + noise.T) / math.sqrt(2)
    clean = denoised(truth + noise, std)
    assert np.linalg.norm(clean - truth) < 0.9 * np.linalg.norm(noise)
    assert np.linalg.eigvalsh(clean).min() > -1e-9
    assert denoised(truth, 0.0) == pytest.approx(truth)


@pytest.mark.parametrize("solver", SOLVERS)
def test_probabilities_hold_for_the_prevalence_that_is_asked_for(solver: str) -> None:
    x, y = units(5)
    moments = moments_of(x, y)
    own = solve(solver, moments, Wanted())
    rare = solve(solver, moments, Wanted(prevalence=0.01))
    assert (1 / (1 + np.exp(-(x @ own.weight + own.bias)))).mean() == pytest.approx(y.mean(), abs=0.02)
    assert rare.weight == pytest.approx(own.weight)
    odds = y.mean() / (1 - y.mean())
    assert own.bias - rare.bias == pytest.approx(math.log(odds / (0.01 / 0.99)), abs=1e-5)


def test_no_head_is_made_of_nothing() -> None:
    with pytest.raises(DataError, match="no solver 'magic'; known: logistic"):
        solve("magic", NoisyMoments.empty(3), Wanted())
    with pytest.raises(DataError, match="nothing of the two classes"):
        solve("discriminant", NoisyMoments.empty(3), Wanted())
