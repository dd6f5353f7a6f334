"""The weighted mean against exact arithmetic, in any order."""

import gc
import tracemalloc
import weakref
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.errors import QuorumError

LARGEST = float(np.finfo(np.float32).max)


VALUES = st.floats(-LARGEST, LARGEST, width=32)


ANY_MAGNITUDE = st.one_of(
    VALUES,
    st.builds(lambda mantissa, exponent: float(np.float32(mantissa * 2.0**exponent)),
              st.floats(-1, 1), st.integers(-149, 127)),
    st.sampled_from([1e38, -1e38, 1e20, -1e20, 1.0, -1.0, 1e-38, 1e-45, 0.0]).map(lambda x: float(np.float32(x))),
)  # fmt: skip


REPLIES = st.lists(st.tuples(ANY_MAGNITUDE, st.integers(1, 10_000_000)), min_size=1, max_size=7)


# Most of it cancels: what is left is what a plain sum has lost.
CANCELLING = st.builds(
    lambda large, left: large + [(-value, weight) for value, weight in large] + left, REPLIES, REPLIES
)


def mean_of(replies: list[tuple[float, int]]) -> np.ndarray:
    mean = WeightedMean()
    for value, weight in replies:
        mean.add({"x": np.array([value], np.float32)}, weight)
    return mean.mean()["x"]


@settings(deadline=None, max_examples=150)
@given(st.one_of(REPLIES, CANCELLING))
def test_the_mean_is_that_of_exact_arithmetic(replies: list[tuple[float, int]]) -> None:
    exact = sum(Fraction(value) * weight for value, weight in replies) / sum(weight for _, weight in replies)
    got = mean_of(replies)[0]
    # One rounding to float64 of the sum, one of the quotient, one to float32.
    error = abs(Fraction(float(got)) - exact)
    assert error <= abs(exact) * Fraction(1, 2**24) * Fraction(1001, 1000) + Fraction(1, 2**150)


@settings(deadline=None, max_examples=150)
@given(st.one_of(REPLIES, CANCELLING), st.data())
def test_not_one_bit_of_the_mean_depends_on_the_order(replies: list[tuple[float, int]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(replies))
    assert mean_of(shuffled).tobytes() == mean_of(replies).tobytes()


def test_order_does_not_matter_where_plain_sums_lose_everything() -> None:
    replies = [(1e38, 1), (1e20, 1), (1.0, 1), (-1e38, 1), (-1e20, 1)]
    assert mean_of(replies)[0] == np.float32(0.2)
    assert mean_of(replies[::-1])[0] == np.float32(0.2)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_the_mean_of_networks_is_a_plain_loops(seed: int, clinics: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = {"conv.weight": (4, 3, 2, 2), "bias": (4,), "scale": (), "none": (0, 3), "zero": (2,)}
    replies = [({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}, w)
               for w in rng.integers(1, 5000, clinics).tolist()]  # fmt: skip
    mean = WeightedMean()
    loop = {name: np.zeros(shape) for name, shape in shapes.items()}
    for tensors, weight in replies:
        tensors["zero"][:] = 0
        mean.add(tensors, weight)
        for name, tensor in tensors.items():
            loop[name] = loop[name] + tensor.astype(np.float64) * weight
    got, weight = mean.mean(), sum(weight for _, weight in replies)
    assert mean.weight == weight
    assert list(got) == list(shapes)
    for name, shape in shapes.items():
        assert isinstance(got[name], np.ndarray)
        assert got[name].dtype == np.float32
        assert got[name].shape == shape
        np.testing.assert_allclose(got[name], loop[name] / weight, rtol=1e-7, atol=1e-15)


def test_one_reply_comes_back_as_it_was_and_is_not_touched() -> None:
    tensor = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    before = tensor.copy()
    mean = WeightedMean()
    mean.add({"x": tensor}, 123)
    mean.add({"x": tensor}, 1)
    np.testing.assert_array_equal(mean.mean()["x"], before)
    np.testing.assert_array_equal(tensor, before)


def test_no_reply_is_held_and_memory_does_not_grow() -> None:
    rng = np.random.default_rng(0)
    size = 100_000
    mean, gone = WeightedMean(), []
    tracemalloc.start()
    try:
        held = []
        for _ in range(12):
            tensors = {"x": rng.standard_normal(size, np.float32)}
            gone.append(weakref.ref(tensors["x"]))
            mean.add(tensors, 77)
            del tensors
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    gc.collect()
    assert all(reference() is None for reference in gone)
    assert held[-1] < held[1] + size * 8, "a reply more must not cost memory"
    assert held[-1] < 5 * size * 8


def test_nothing_added_is_no_mean() -> None:
    with pytest.raises(QuorumError, match="nothing to average"):
        WeightedMean().mean()
