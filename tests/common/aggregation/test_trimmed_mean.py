"""The mean of each value without the smallest and as many largest (Yin et al., arXiv 1803.01498)."""

import numpy as np
import pytest
from scipy import stats

from melfed.common.aggregation.trimmed_mean import RULE, trimmed
from tests.common.aggregation.updates import Options, assert_like, drawn, numbers, value


def test_by_hand() -> None:
    assert value(RULE.mean(numbers(-1e9, 1, 2, 3, 1e9), Options(robust_trim=0.2))) == 2
    assert value(RULE.mean(numbers(1e9, 1, 2), Options(robust_trim=0.1))) == 2, "one at either end at least"
    assert RULE.needed(Options()) == 3


@pytest.mark.parametrize(("count", "trim"), [(3, 0.1), (10, 0.3), (12, 0.25), (9, 0.49)])
def test_it_is_scipys_of_what_is_left_out(count: int, trim: float) -> None:
    updates = drawn(count)
    share = (trimmed(count, trim) + 0.25) / count
    expected = {name: stats.trim_mean(np.stack([u[name] for u in updates]), share, axis=0) for name in updates[0]}
    assert_like(RULE.mean(updates, Options(robust_trim=trim)), expected)


@pytest.mark.parametrize(
    ("count", "trim", "out"), [(2, 0.4, 0), (3, 0.0, 1), (20, 0.1, 2), (100, 0.29, 29), (9, 0.49, 4)]
)
def test_how_many_are_left_out(count: int, trim: float, out: int) -> None:
    assert trimmed(count, trim) == out
