"""Ranks, Friedman's test and Nemenyi's critical difference, against their formulas and Demšar's table (JMLR 2006)."""

import math

import numpy as np
import pytest
from scipy import stats

from melfed.simulations.comparison.statistics.ranks import critical_difference, friedman


def test_ranks_are_counted_and_friedmans_test_is_its_formula() -> None:
    values = np.round(np.random.default_rng(3).normal(size=(9, 4)), 1)  # with ties
    ranks = [[1 + sum(o > v for o in row) + (sum(o == v for o in row) - 1) / 2 for v in row] for row in values]
    found = friedman(values)
    assert found.mean == pytest.approx(np.mean(ranks, axis=0))
    assert found.blocks == 9
    assert found.p == pytest.approx(stats.friedmanchisquare(*(-values).T).pvalue)
    distinct = np.random.default_rng(4).permuted(np.tile(np.arange(4.0), (9, 1)), axis=1)
    n, k, mean = 9, 4, np.mean(4 - distinct, axis=0)
    chi2 = 12 * n / (k * (k + 1)) * (np.sum(mean**2) - k * (k + 1) ** 2 / 4)
    assert friedman(distinct).p == pytest.approx(stats.chi2.sf(chi2, k - 1))


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_values_are_those_of_the_published_table(k: int, q: float) -> None:
    assert critical_difference(k, 12) == pytest.approx(q * math.sqrt(k * (k + 1) / 72), abs=1e-3)


def test_equal_configurations_are_one_clique_with_p_1() -> None:
    found = friedman(np.full((4, 3), 0.7))
    assert (found.mean, found.p) == ((2.0, 2.0, 2.0), 1.0)
    assert found.cliques() == [(0, 1, 2)]


def test_cliques_are_the_largest_sets_within_the_critical_difference() -> None:
    values = np.tile([[0.9, 0.6, 0.3, 0.1]], (20, 1))
    found = friedman(values)  # ranks 1, 2, 3, 4; critical difference 1.05
    assert found.critical == pytest.approx(1.049, abs=1e-3)
    assert found.cliques() == [(0, 1), (1, 2), (2, 3)]
    assert friedman(np.tile([[0.9, 0.6, 0.3, 0.1]], (400, 1))).cliques() == []
