"""A smooth density of noisy counts: near the counts where they are certain, normal where they drown."""

import numpy as np
import pytest
from scipy.stats import norm

from melfed.common.metrics.density_fit import exp_counts, fit_density

EDGES = np.linspace(-4, 4, 31)
ENDS = np.concatenate(([-np.inf], EDGES, [np.inf]))


def expected(size: float, mean: float = 0.5, spread: float = 1.2) -> np.ndarray:
    return size * np.diff(norm.cdf(ENDS, mean, spread))


def two_humps(size: float) -> np.ndarray:
    return (expected(size, -2.0, 0.4) + expected(size, 2.0, 0.4)) / 2


def test_exact_counts_of_any_shape_come_back() -> None:
    for counts in (expected(1e6), two_humps(1e6)):
        density = fit_density(counts, np.zeros((32, 32)), EDGES)
        assert density.counts.sum() == pytest.approx(1e6, rel=1e-3)
        assert np.abs(density.counts - counts).sum() / 1e6 < 0.02


def test_with_much_noise_a_normal_density_is_found_in_it() -> None:
    truth, sigma, left = expected(2000), 40.0, []
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(0, sigma, 32)
        density = fit_density(truth + noise, sigma**2 * np.eye(32), EDGES)
        left.append(np.abs(density.counts - truth).sum() / np.abs(noise).sum())
        # Third differences of the logarithm of a normal density vanish.
        assert np.abs(np.diff(density.log_counts[3:-3], 3)).max() < 1e-3
    assert np.mean(left) < 1 / 2


def test_more_noise_leaves_the_density_less_certain() -> None:
    spreads = []
    for sigma in (1.0, 10.0, 50.0):
        density = fit_density(expected(2000), sigma**2 * np.eye(32), EDGES)
        spreads.append(np.linalg.inv(density.precision).trace())
        assert np.linalg.inv(density.exact_precision).trace() <= spreads[-1] * (1 + 1e-6)
    assert spreads == sorted(spreads)


def test_logarithms_out_of_range_stay_numbers() -> None:
    assert np.isfinite(exp_counts(np.array([-1e9, 0.0, 1e9]))).all()
    assert exp_counts(np.array([0.0])).tolist() == [1.0]
