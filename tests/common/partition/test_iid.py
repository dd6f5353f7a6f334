"""iid: sizes differ by one group at most, and who gets which is drawn."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.partition.iid import DEAL
from tests.common.partition.dealing import deal, groups, sizes


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 50), clinics=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_sizes_differ_by_one_group_at_most(count: int, clinics: int, seed: int) -> None:
    found = np.bincount(deal(DEAL, groups(count, 0), clinics, seed=seed), minlength=clinics)
    assert found.max() - found.min() <= 1


def test_the_first_clinics_have_the_groups_that_are_over() -> None:
    assert sizes(DEAL, 11, 4) == [3, 3, 3, 2]


def test_every_clinic_gets_about_its_share_of_positives() -> None:
    dealt = groups(1000, 3000)
    owners = deal(DEAL, dealt, 4)
    share = np.bincount(owners[dealt.positive], minlength=4) / 1000
    assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 1000)  # five standard deviations
