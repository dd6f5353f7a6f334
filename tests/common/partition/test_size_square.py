"""size_square: the k-th clinic's share is proportional to k²."""

from melfed.common.partition.size_square import DEAL
from tests.common.partition.dealing import Options, sizes


def test_sizes_by_hand() -> None:
    assert sizes(DEAL, 140, 3) == [10, 40, 90]


def test_alpha_changes_nothing() -> None:
    assert sizes(DEAL, 140, 3, Options(alpha=0.1)) == sizes(DEAL, 140, 3, Options(alpha=9.0))
