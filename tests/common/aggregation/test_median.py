"""The median of each value (Yin et al., arXiv 1803.01498)."""

import numpy as np
import pytest

from melfed.common.aggregation.median import RULE
from tests.common.aggregation.updates import Options, assert_like, drawn, numbers, value


def test_fewer_than_half_false_ones_change_nothing_much() -> None:
    assert value(RULE.mean(numbers(1, 2, 3, 1e9, -1e9), Options())) == 2
    assert value(RULE.mean(numbers(1, 2, 4, 1e9), Options())) == 3
    assert RULE.needed(Options()) == 3


@pytest.mark.parametrize("count", [3, 4, 7])
def test_it_is_numpys_at_each_place(count: int) -> None:
    updates = drawn(count)
    assert_like(
        RULE.mean(updates, Options()),
        {name: np.median([update[name] for update in updates], axis=0) for name in updates[0]},
    )
