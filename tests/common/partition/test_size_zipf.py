"""size_zipf: the k-th clinic's share is proportional to k^-α."""

from melfed.common.partition.size_zipf import DEAL
from tests.common.partition.dealing import Options, sizes


def test_sizes_by_hand() -> None:
    assert sizes(DEAL, 147, 3, Options(alpha=2.0)) == [108, 27, 12]


def test_an_exponent_of_one_is_zipfs_law() -> None:
    assert sizes(DEAL, 110, 3, Options(alpha=1.0)) == [60, 30, 20]
