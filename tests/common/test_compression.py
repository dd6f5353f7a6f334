"""Compressed updates: right on average, no further off than they say, and nothing from outside is believed."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common import compression
from melfed.common.compression import Compressed, Kind, compressed, restored
from melfed.common.tensors import TensorError, Tensors

KINDS: tuple[Kind, ...] = ("float16", "int8")
VALUES = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.builds(lambda m, e: float(np.float32(m * 2.0**e)), st.floats(-1, 1), st.integers(-60, 20)),
)


def updates(seed: int = 0, size: int = 3000) -> tuple[Tensors, Tensors]:
    """A model, and an update of it."""
    generator = np.random.default_rng(seed)
    shapes = {"w": (3, size // 3), "b": (5,), "scalar": (), "none": (0, 2), "same": (4,)}
    model = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    update = {name: (t + generator.normal(0, 1e-2, t.shape)).astype(np.float32) for name, t in model.items()}
    return model, update | {"same": model["same"].copy()}


@pytest.mark.parametrize(("kind", "share"), [("float16", 0.5), ("int8", 0.25)])
def test_it_takes_the_share_of_the_bytes_that_it_says(kind: Kind, share: float) -> None:
    model, update = updates(size=300_000)
    sent = compressed(update, model, kind, 0)
    whole = sum(tensor.nbytes for tensor in update.values())
    assert sum(tensor.nbytes for tensor in sent.values()) == pytest.approx(share * whole, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_has_the_same_names_and_shapes_and_what_did_not_change_is_the_same(kind: Kind) -> None:
    model, update = updates()
    got = restored(compressed(update, model, kind, 1), model, kind)
    assert {name: tensor.shape for name, tensor in got.items()} == {n: t.shape for n, t in update.items()}
    assert all(tensor.dtype == np.float32 for tensor in got.values())
    np.testing.assert_array_equal(got["same"], model["same"])
    assert not np.array_equal(got["w"], update["w"])


@settings(deadline=None, max_examples=200)
@given(st.lists(VALUES, min_size=1, max_size=20), st.sampled_from(KINDS), st.integers(0, 2**40))
def test_no_value_is_further_off_than_is_said(values: list[float], kind: Kind, seed: int) -> None:
    change = np.float32(values)
    zero = {"x": np.zeros_like(change)}
    got = restored(compressed({"x": change}, zero, kind, seed), zero, kind)["x"].astype(np.float64)
    largest, exact = float(np.abs(change).max()), change.astype(np.float64)
    # Below float32's own smallest numbers nothing is promised.
    if kind == "int8":
        most = np.full(exact.shape, largest / 127 * (1 + 2.0**-22) + 1e-38)
    else:
        most = np.maximum(np.abs(exact) * 2.0**-10, largest * 2.0**-38) + 1e-38
    assert (np.abs(got - exact) <= most + np.abs(exact) * 2.0**-23).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_many_is_the_update_itself(kind: Kind) -> None:
    """Each value's mean over seeds lies within six standard errors, and rounding to the nearest would not."""
    change = np.float32([1.0, 0.3001, -0.0777, 1e-3 + 3e-7, -1e-6, 2.0**-20 * 1.0001, 0.0])
    zero = {"x": np.zeros_like(change)}
    many = 4000
    got = np.stack([restored(compressed({"x": change}, zero, kind, seed), zero, kind)["x"] for seed in range(many)])
    error = got.astype(np.float64).mean(axis=0) - change.astype(np.float64)
    # That of a value so near to a level that no seed may have left it is that of one seed in all.
    step = 1 / 127 if kind == "int8" else np.abs(change) * 2.0**-10
    spread = np.maximum(got.astype(np.float64).std(axis=0), step / np.sqrt(many)) / np.sqrt(many)
    assert (np.abs(error) <= 6 * spread).all()
    nearest = restored(compressed({"x": change}, zero, kind, 0), zero, kind)["x"]
    assert len(np.unique(got[:, 1])) == len(np.unique(got[:, 3])) == 2, "between two neighbours"
    assert (np.abs(nearest - change)[[1, 3]] > 6 * spread[[1, 3]]).all(), "one of them alone is off by more"


def test_a_value_between_two_levels_is_one_of_them_as_often_as_it_is_near() -> None:
    change = np.float32([1.27] + [0.0125] * 20_000)
    zero = {"x": np.zeros_like(change)}
    got = restored(compressed({"x": change}, zero, "int8", 3), zero, "int8")["x"][1:]
    low, high = sorted(set(got.tolist()))
    assert (low, high) == pytest.approx((0.01, 0.02), rel=1e-5)
    assert (got == high).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_is_written_as_numpy_reads_it(kind: Kind) -> None:
    """The bytes, by hand: a float32, then the values, little-endian."""
    model = {"x": np.float32([0, 0])}
    sent = compressed({"x": np.float32([1.0, -0.5])}, model, kind, 0)["x"].tobytes()
    scale = np.frombuffer(sent[:4], "<f4")[0]
    values = np.frombuffer(sent[4:], {"float16": "<f2", "int8": "i1"}[kind]).astype(np.float64)
    assert (values * float(scale)).tolist() == pytest.approx([1.0, -0.5], abs=1 / 127)
    if kind == "float16":
        assert Fraction(float(scale)) == Fraction(1, 2**14)
        assert values.tolist() == [2.0**14, -(2.0**13)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats_itself_whatever_the_blocks_and_another_does_not(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, update = updates()
    one, other = (compressed(update, model, kind, seed) for seed in (1, 2))
    assert one["w"].tobytes() != other["w"].tobytes()
    monkeypatch.setattr(compression, "BLOCK", 64)
    again = compressed(update, model, kind, 1)
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {n: t.tobytes() for n, t in again.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(kind: Kind, wrong: float) -> None:
    model, update = updates()
    update["b"][2] = wrong
    with pytest.raises(TensorError, match="tensor b holds values that are not finite"):
        restored(compressed(update, model, kind, 0), model, kind)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda sent: sent.pop("w"), "tensor w is missing"),
        (lambda sent: sent.update(z=sent["b"]), "tensor z is none of the model"),
        (lambda sent: sent.update(b=sent["b"][:-1]), "tensor b came as uint8 of shape (8,), not as 9 bytes of int8"),
        (lambda sent: sent.update(b=sent["b"].astype(np.int8)), "tensor b came as int8 of shape (9,)"),
        (lambda sent: sent.update(b=np.zeros(5, np.float32)), "tensor b came as float32 of shape (5,)"),
        (lambda sent: sent.update(b=np.float32([-1, 0, 0])[:0].view(np.uint8)), "shape (0,)"),
        (lambda sent: sent["b"].__setitem__(slice(0, 4), np.float32([-1]).view(np.uint8)), "not finite"),
    ],
)
def test_bytes_from_outside_that_are_no_update_are_refused(spoil: Callable[[Compressed], object], reason: str) -> None:
    model, update = updates()
    sent = compressed(update, model, "int8", 0)
    spoil(sent)
    with pytest.raises(TensorError) as caught:
        restored(sent, model, "int8")
    assert reason in str(caught.value)


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=14, max_size=14))
def test_any_bytes_make_numbers_or_are_refused(content: bytes) -> None:
    """Whether they are finite is looked at after that, as of every update."""
    model = {"x": np.zeros(5, np.float32)}
    try:
        got = restored({"x": np.frombuffer(content, np.uint8)}, model, "float16")["x"]
    except TensorError:
        return
    assert got.dtype == np.float32
    assert got.shape == (5,)
