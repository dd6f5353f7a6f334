"""The weighted mean against exact arithmetic, in any order."""

import gc
import tracemalloc
import weakref
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.aggregation import weighted_mean
from melfed.common.aggregation.fixed_point import SUM_BITS, FixedPoint, fixed_point_for
from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.errors import DataError, QuorumError
from melfed.common.tensors import TensorError

VALUES = st.floats(-1024, 1024, width=32)
SMALL_AND_LARGE = st.one_of(
    VALUES,
    st.builds(lambda mantissa, exponent: float(np.float32(mantissa * 2.0**exponent)),
              st.floats(-1, 1), st.integers(-149, 10)),
    st.sampled_from([1024.0, -1024.0, 1.0, -1.0, 2.0**-27, 1e-38, 1e-45, 0.0]).map(lambda x: float(np.float32(x))),
)  # fmt: skip
REPLIES = st.lists(st.tuples(SMALL_AND_LARGE, st.integers(1, 10_000_000)), min_size=1, max_size=7)
# Most of it cancels: what is left is what a plain sum has lost.
CANCELLING = st.builds(
    lambda large, left: large + [(-value, weight) for value, weight in large] + left, REPLIES, REPLIES
)


def fixed_for(*weights: float, bound: float = 1024.0) -> FixedPoint:
    return FixedPoint({"x": bound}, int(sum(weights)))


def mean_of(replies: list[tuple[float, int]], fixed: FixedPoint | None = None) -> np.ndarray:
    mean = WeightedMean(fixed or fixed_for(*(weight for _, weight in replies)))
    for value, weight in replies:
        mean.add({"x": np.array([value], np.float32)}, weight)
    return mean.mean()["x"]


def exactly(replies: list[tuple[float, int]]) -> Fraction:
    return sum(Fraction(value) * weight for value, weight in replies) / sum(weight for _, weight in replies)


@settings(deadline=None, max_examples=150)
@given(st.one_of(REPLIES, CANCELLING), st.integers(0, 2**40))
def test_the_mean_is_as_near_to_exact_arithmetic_as_it_says(replies: list[tuple[float, int]], more: int) -> None:
    """Also where not all of the weights come that the fixed point is for."""
    weight = sum(weight for _, weight in replies)
    fixed = fixed_for(weight, more)
    error = abs(Fraction(float(mean_of(replies, fixed)[0])) - exactly(replies))
    unit = Fraction(fixed.unit("x"))
    stated = len(replies) * unit / (2 * weight)
    assert error <= stated + (abs(exactly(replies)) + stated) * (Fraction(1, 2**24) + Fraction(1, 2**52)) + Fraction(
        1, 2**150
    )
    if not more:
        assert stated <= len(replies) * 1024 * Fraction(1, 2**47)


@settings(deadline=None, max_examples=100)
@given(REPLIES, st.integers(1, 10_000_000))
def test_a_clinic_that_is_refused_moves_no_bit_where_the_sums_have_one_power_of_sixteen(
    replies: list[tuple[float, int]], refused: int
) -> None:
    honest = sum(weight for _, weight in replies)
    same = len(f"{honest:x}") == len(f"{honest + refused:x}")
    units = [fixed_for(honest, more).unit("x") for more in (0, refused)]
    assert (units[0] == units[1]) == same
    if same:
        assert mean_of(replies).tobytes() == mean_of(replies, fixed_for(honest, refused)).tobytes()


def test_the_error_is_that_of_the_unit_and_no_smaller() -> None:
    """Half a unit is lost, and nearly a whole one more or less is not."""
    fixed = fixed_for(1)
    half = fixed.unit("x") / 2
    assert mean_of([(half, 1)], fixed)[0] == 0
    assert mean_of([(3 * half, 1)], fixed)[0] == 4 * half


@settings(deadline=None, max_examples=150)
@given(st.one_of(REPLIES, CANCELLING), st.data())
def test_not_one_bit_of_the_mean_depends_on_the_order(replies: list[tuple[float, int]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(replies))
    assert mean_of(shuffled).tobytes() == mean_of(replies).tobytes()


def test_order_does_not_matter_where_plain_sums_lose_everything() -> None:
    replies = [(1e8, 1), (1.0, 1), (2.0**-19, 1), (-1e8, 1), (-1.0, 1)]
    fixed = fixed_for(5, bound=2.0**27)
    assert mean_of(replies, fixed)[0] == mean_of(replies[::-1], fixed)[0] == np.float32(2.0**-19 / 5)
    assert sum(np.float32(value) for value, _ in replies) == -1  # in float32, as they come


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_the_mean_of_networks_is_a_plain_loops(seed: int, clinics: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = {"conv.weight": (4, 3, 2, 2), "bias": (4,), "scale": (), "none": (0, 3), "zero": (2,)}
    replies = [({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}, w)
               for w in rng.integers(1, 5000, clinics).tolist()]  # fmt: skip
    mean = WeightedMean(fixed_point_for(replies[0][0], 5000 * clinics))
    loop = {name: np.zeros(shape) for name, shape in shapes.items()}
    for tensors, weight in replies:
        tensors["zero"][:] = 0
        mean.add(tensors, weight)
        for name, tensor in tensors.items():
            loop[name] = loop[name] + tensor.astype(np.float64) * weight
    weight = sum(weight for _, weight in replies)
    assert mean.weight == weight
    got = mean.mean()
    assert list(got) == list(shapes)
    for name, shape in shapes.items():
        assert isinstance(got[name], np.ndarray)
        assert got[name].dtype == np.float32
        assert got[name].shape == shape
        np.testing.assert_allclose(got[name], loop[name] / weight, rtol=1e-7, atol=1e-8)


def test_one_reply_comes_back_as_it_was_and_is_not_touched() -> None:
    tensor = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    before = tensor.copy()
    mean = WeightedMean(fixed_for(124))
    mean.add({"x": tensor}, 123)
    mean.add({"x": tensor}, 1)
    np.testing.assert_array_equal(mean.mean()["x"], before)
    np.testing.assert_array_equal(tensor, before)


def same_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert {name: tensor.tobytes() for name, tensor in left.items()} == {n: t.tobytes() for n, t in right.items()}


def test_the_next_reply_begins_another_mean() -> None:
    mean = WeightedMean(fixed_for(10))
    for value in (3.0, -7.0):
        mean.add({"x": np.float32([value])}, 10)
        assert mean.mean()["x"].tolist() == [value]


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_threads_change_nothing(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted_mean, "BLOCK", 64)
    rng = np.random.default_rng(3)
    replies = [({"a": rng.standard_normal(1000, np.float32), "b": rng.standard_normal((3, 50), np.float32)}, weight)
               for weight in (3, 50, 7)]  # fmt: skip
    expected = WeightedMean(fixed_point_for(replies[0][0], 60))
    threaded = WeightedMean(fixed_point_for(replies[0][0], 60))
    for tensors, weight in replies:
        expected.add(tensors, weight)
    monkeypatch.setattr(weighted_mean, "SERIAL", 10)
    monkeypatch.setattr(weighted_mean.os, "sched_getaffinity", lambda _: range(cores))
    for tensors, weight in reversed(replies):
        threaded.add(tensors, weight)
    same_bits(expected.mean(), threaded.mean())


@pytest.mark.parametrize("serial", [0, 1 << 30])
@pytest.mark.parametrize("wrong", [1024.001, -1e38, np.inf, np.nan])
def test_what_does_not_fit_is_refused_by_name_and_leaves_no_trace(
    serial: int, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_mean, "BLOCK", 16)
    monkeypatch.setattr(weighted_mean, "SERIAL", serial)
    rng = np.random.default_rng(1)
    good = {"a": rng.standard_normal(100, np.float32), "b": rng.standard_normal(100, np.float32)}
    fixed = FixedPoint({"a": 1024.0, "b": 1024.0}, 100)
    mean, alone = WeightedMean(fixed), WeightedMean(fixed)
    for each in (mean, alone):
        each.add(good, 7)
    false = {name: tensor.copy() for name, tensor in good.items()}
    false["b"][70] = wrong
    for refuse in (lambda: mean.add(false, 5), lambda: fixed.check(false)):
        with pytest.raises(TensorError, match=r"tensor b holds a value of .* beyond the 1024 that the round's mean"):
            refuse()
    with pytest.raises(TensorError, match="tensor c is none of the model's"):
        mean.add(good | {"c": good["a"]}, 5)
    for each in (mean, alone):
        each.add(good, 11)
    assert mean.weight == alone.weight == 18
    same_bits(alone.mean(), mean.mean())


@pytest.mark.parametrize("weight", [0, -1, 0.5, 11, float("nan"), 2**29 + 1])
def test_a_weight_that_is_none_or_too_large_is_refused(weight: float) -> None:
    mean = WeightedMean(fixed_for(10 if weight < 2**29 else 2**40))
    with pytest.raises(DataError, match="is not a whole number from 1 to"):
        mean.add({"x": np.ones(1, np.float32)}, weight)
    assert mean.weight == 0


def test_the_sum_of_the_largest_values_and_weights_is_within_its_bits() -> None:
    fixed = fixed_for(2**29, 2**29, 2**29)
    assert mean_of([(1024.0, 2**29)] * 3, fixed)[0] == 1024
    assert fixed.weight * 1024.0 / fixed.unit("x") < 2**SUM_BITS


def test_no_reply_is_held_and_memory_does_not_grow() -> None:
    """Beside the reply in hand, twice the bytes of a model of float32; and a tensor of the mean in the end."""
    rng = np.random.default_rng(0)
    size, names = 1_000_000, "abcd"
    mean, gone = WeightedMean(FixedPoint(dict.fromkeys(names, 1024.0), 1000)), []
    tracemalloc.start()
    try:
        held = []
        for _ in range(6):
            tensors = {name: rng.standard_normal(size, np.float32) for name in names}
            gone.append(weakref.ref(tensors["a"]))
            mean.add(tensors, 77)
            del tensors
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()
        mean.mean()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    model = 4 * size * len(names)
    assert all(reference() is None for reference in gone)
    assert held[-1] < held[1] + size, "a reply more must not cost memory"
    assert held[-1] < 2.05 * model
    assert peak < 2.4 * model


def test_nothing_added_is_no_mean() -> None:
    with pytest.raises(QuorumError, match="nothing to average"):
        WeightedMean(fixed_for(1)).mean()
