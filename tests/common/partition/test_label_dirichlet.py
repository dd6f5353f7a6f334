"""label_dirichlet: a share of each label of its own, drawn from Dir(α, …, α)."""

import numpy as np

from melfed.common.partition.label_dirichlet import DEAL
from tests.common.partition.dealing import Options, deal, groups


def shares(alpha: float, seed: int) -> np.ndarray:
    """Each of three clinics' share of the negative and the positive groups, shape (2, 3)."""
    dealt = groups(500, 500)
    owners = deal(DEAL, dealt, 3, Options(alpha), seed)
    return np.array([np.bincount(owners[dealt.positive == label], minlength=3) / 500 for label in (False, True)])


def test_shares_of_each_label_have_the_distributions_variance_and_nothing_in_common() -> None:
    drawn = np.array([shares(1.0, seed) for seed in range(400)])
    # A component of Dir(1, 1, 1) is Beta(1, 2): mean 1/3, variance 1/18.
    assert np.abs(drawn.mean(axis=0) - 1 / 3).max() < 0.05
    assert np.abs(drawn.var(axis=0) * 18 - 1).max() < 0.3
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.2


def test_a_large_alpha_evens_both_labels() -> None:
    assert np.abs(shares(1e6, 0) - 1 / 3).max() < 0.01


def test_a_label_that_no_group_has_takes_nobodys_place() -> None:
    assert len(deal(DEAL, groups(0, 20), 3)) == 20
