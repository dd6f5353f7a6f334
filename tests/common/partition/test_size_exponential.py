"""size_exponential: the k-th clinic's share is proportional to e^k."""

import math

import numpy as np
import pytest

from melfed.common.partition.size_exponential import DEAL
from tests.common.partition.dealing import sizes


def test_each_clinic_is_e_times_the_one_before() -> None:
    found = np.array(sizes(DEAL, 100_000, 4))
    assert found[1:] / found[:-1] == pytest.approx([math.e] * 3, rel=1e-3)


def test_a_thousand_clinics_are_no_overflow() -> None:
    found = sizes(DEAL, 100, 1000)
    assert found[-1] == 63  # 1 - 1/e
    assert sum(found[:-10]) == 0
