"""Krum (Blanchard et al., arXiv 1703.02757): the update that is nearest to its n - f - 2 nearest others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.aggregation.krum import RULE, krum_order, mean_of_first, squared_distances
from tests.common.aggregation.updates import Options, assert_like, drawn, numbers, value


def test_by_hand() -> None:
    # To the n - f - 2 = 2 nearest: 0: 1 + 6.25, 1: 1 + 2.25, 2.5: 0.25 + 2.25, 3: 0.25 + 4, 50: 47² + 47.5².
    updates = numbers(0, 1, 2.5, 3, 50)
    assert krum_order(updates, byzantine=1) == [2, 1, 3, 0, 4]
    assert value(RULE.mean(updates, Options())) == 2.5


@settings(deadline=None, max_examples=25)
@given(count=st.integers(3, 9), byzantine=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_order_is_that_of_a_plain_loop(count: int, byzantine: int, seed: int) -> None:
    updates = drawn(count, seed)
    flat = [np.concatenate([tensor.ravel().astype(float) for tensor in update.values()]) for update in updates]
    nearest = max(1, count - byzantine - 2)
    scores = [
        sum(sorted(float(((one - other) ** 2).sum()) for place, other in enumerate(flat) if place != own)[:nearest])
        for own, one in enumerate(flat)
    ]
    assert krum_order(updates, byzantine) == sorted(range(count), key=lambda index: scores[index])


def test_distances_are_symmetric_squares() -> None:
    updates = [{"a": np.array([0, 0], np.float32), "b": np.float32(0).reshape(())},
               {"a": np.array([3, 0], np.float32), "b": np.float32(4).reshape(())}]  # fmt: skip
    assert squared_distances(updates).tolist() == [[0, 25], [25, 0]]


@pytest.mark.parametrize("change", [1e-2, 1e-3, 1e-4])
def test_models_that_lie_close_together_are_told_apart(change: float) -> None:
    """By differences: |x|² + |y|² - 2 xy of whole models is rounding (findings/flower-krum-rounds-its-distances.sh)."""
    random = np.random.default_rng(3)
    model, lengths = 0.02 * random.standard_normal(100_000), random.permutation(0.5 + 0.15 * np.arange(8))
    steps = [random.standard_normal(model.size) * 0.02 * change * length for length in lengths]
    order = krum_order([{"a": (model + step).astype(np.float32)} for step in steps], byzantine=1)
    assert order == np.argsort(lengths).tolist()


@pytest.mark.parametrize(("byzantine", "needed"), [(0, 3), (1, 5), (3, 9)])
def test_it_needs_two_f_plus_three(byzantine: int, needed: int) -> None:
    assert RULE.needed(Options(robust_byzantine=byzantine)) == needed


def test_the_mean_of_the_first_is_that_of_the_most_trustworthy() -> None:
    assert value(mean_of_first(numbers(0, 1, 2, 3, 50), 1, 4)) == 1.5
    updates = drawn(5)
    assert_like(RULE.mean(updates, Options()), updates[krum_order(updates, 1)[0]])
