"""size_dirichlet: a share of all groups, drawn from Dir(α, …, α), whatever their labels."""

import numpy as np
import pytest

from melfed.common.partition.size_dirichlet import DEAL
from tests.common.partition.dealing import Options, groups, sizes


def test_shares_have_the_mean_and_variance_of_the_distribution() -> None:
    alpha, clinics = 2.0, 4
    generator = np.random.default_rng(0)
    dealt = groups(250, 750)
    drawn = np.array(
        [np.bincount(DEAL(dealt, clinics, Options(alpha), generator), minlength=clinics) / 1000 for _ in range(2000)]
    )
    # A component of Dir(α, …, α) over K is Beta(α, (K - 1)α): mean 1/K, variance (K - 1) / (K² (Kα + 1)).
    variance = (clinics - 1) / (clinics**2 * (clinics * alpha + 1))
    assert drawn.mean(axis=0) == pytest.approx(1 / clinics, abs=5 * np.sqrt(variance / 2000))
    assert drawn.var(axis=0) == pytest.approx(variance, rel=0.15)


def test_a_large_alpha_evens_sizes() -> None:
    assert sizes(DEAL, 400, 4, Options(alpha=1e8)) == [100] * 4
