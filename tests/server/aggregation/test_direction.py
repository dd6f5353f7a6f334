"""The mean direction of updates: that of plain arithmetic, the same bits in any order, and none too large."""

import itertools

import numpy as np
import pytest

from melfed.common.errors import QuorumError
from melfed.common.tensors import TensorError
from melfed.server.aggregation.direction import MeanDirection

MODEL = {"w": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)}
WEIGHTS = (30, 7, 100)


def rate_sum(weight: int) -> float:
    return 0.01 * -(-weight // 8)


def updates() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"w": (MODEL["w"] + rng.normal(0, 0.1, (2, 3))).astype(np.float32)} for _ in WEIGHTS]


def mean_of(order: tuple[int, ...]) -> tuple[dict[str, np.ndarray], float]:
    mean, found = MeanDirection(MODEL, sum(WEIGHTS), rate_sum), updates()
    for number in order:
        mean.add(found[number], WEIGHTS[number])
    return mean.mean()


def test_it_is_the_weighted_mean_of_the_differences_by_their_rates() -> None:
    direction, total = mean_of((0, 1, 2))
    each = [(MODEL["w"].astype(float) - u["w"]) / rate_sum(w) for u, w in zip(updates(), WEIGHTS, strict=True)]
    np.testing.assert_allclose(direction["w"], np.average(each, axis=0, weights=WEIGHTS), rtol=1e-5, atol=1e-6)
    assert total == pytest.approx(np.average([rate_sum(w) for w in WEIGHTS], weights=WEIGHTS))


def test_no_order_changes_a_bit() -> None:
    first, total = mean_of((0, 1, 2))
    for order in itertools.permutations(range(3)):
        again, other = mean_of(order)
        assert (again["w"] == first["w"]).all()
        assert other == total


def test_what_the_sum_cannot_hold_is_refused_and_counts_nothing() -> None:
    mean = MeanDirection(MODEL, sum(WEIGHTS), rate_sum)
    with pytest.raises(TensorError, match="tensor w holds a value"):
        mean.add({"w": np.full((2, 3), 1e9, np.float32)}, 8)
    with pytest.raises(QuorumError):
        mean.mean()


def test_what_the_mean_of_models_takes_this_takes_too() -> None:
    mean = MeanDirection(MODEL, sum(WEIGHTS), rate_sum)
    mean.add({"w": np.full((2, 3), 2047.0, np.float32)}, 1)
    assert (mean.mean()[0]["w"] < -2e5).all()
