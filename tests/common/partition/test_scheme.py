"""Shares of groups: whole groups, as near to each share as rounding lets them be."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.partition.scheme import by_rank, by_shares
from tests.common.partition.dealing import Options, sizes


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(0, 200),
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_every_group_has_an_owner_and_sizes_are_the_shares_within_rounding(
    count: int, weights: list[int], seed: int
) -> None:
    shares = np.array(weights) / sum(weights)
    owners = by_shares(count, shares, np.random.default_rng(seed))
    assert len(owners) == count
    # Each of a share's two borders moves by half a group at most.
    assert np.abs(np.bincount(owners, minlength=len(weights)) - shares * count).max() <= 1 + 1e-9


def test_groups_come_in_random_order() -> None:
    owners = by_shares(100, np.array([0.5, 0.5]), np.random.default_rng(0))
    assert 0 < owners[:50].sum() < 50


def test_ranks_begin_at_one_and_sizes_are_the_exponential_of_the_function() -> None:
    assert sizes(by_rank(lambda rank, options: np.log(rank + options.alpha)), 90, 3, Options(alpha=1.0)) == [20, 30, 40]


def test_exponentials_that_are_no_numbers_are_not_taken() -> None:
    assert sizes(by_rank(lambda rank, _: 1000.0 * rank), 10, 3) == [0, 0, 10]
