"""Multi-Krum (arXiv 1703.02757): the mean of the n - f updates that Krum trusts most."""

import numpy as np
import pytest

from melfed.common.aggregation.krum import krum_order
from melfed.common.aggregation.multi_krum import RULE
from tests.common.aggregation.updates import Options, assert_like, drawn, numbers, value


def test_by_hand() -> None:
    assert value(RULE.mean(numbers(0, 1e9, 1, 2, 3), Options())) == 1.5
    assert value(RULE.mean(numbers(1, 2, 3, 4), Options(robust_byzantine=0))) == 2.5


@pytest.mark.parametrize("byzantine", [1, 2])
def test_it_is_the_mean_of_all_but_the_f_last_in_krums_order(byzantine: int) -> None:
    updates = drawn(7)
    kept = [updates[index] for index in krum_order(updates, byzantine)[: 7 - byzantine]]
    expected = {name: np.mean([update[name] for update in kept], axis=0) for name in updates[0]}
    assert_like(RULE.mean(updates, Options(robust_byzantine=byzantine)), expected)
    assert RULE.needed(Options(robust_byzantine=byzantine)) == 2 * byzantine + 3
