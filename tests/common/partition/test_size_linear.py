"""size_linear: the k-th clinic's share is proportional to k."""

from melfed.common.partition.size_linear import DEAL
from tests.common.partition.dealing import Options, sizes


def test_sizes_by_hand() -> None:
    assert sizes(DEAL, 100, 4) == [10, 20, 30, 40]


def test_alpha_changes_nothing() -> None:
    assert sizes(DEAL, 140, 3, Options(alpha=0.1)) == sizes(DEAL, 140, 3, Options(alpha=9.0))
