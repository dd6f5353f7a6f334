"""Updates of a round in the tests of rules."""

from dataclasses import dataclass

import numpy as np

from melfed.common.tensors import Tensors

SHAPES = {"w": (7, 5), "b": (3,), "scalar": (), "none": (0, 2)}


@dataclass(frozen=True)
class Options:
    """What a study states."""

    robust_trim: float = 0.1
    robust_byzantine: int = 1


def drawn(count: int, seed: int = 0) -> list[Tensors]:
    """So many random updates."""
    rng = np.random.default_rng(seed)
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(count)
    ]


def numbers(*values: float) -> list[Tensors]:
    """Updates of one value each."""
    return [{"x": np.array([value], np.float32)} for value in values]


def value(update: Tensors) -> float:
    """The value of an update of one."""
    return float(update["x"][0])


def assert_like(found: Tensors, expected: Tensors) -> None:
    """Same names and shapes, float32, and the same values but for rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == np.float32
        assert tensor.shape == expected[name].shape
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-5, atol=1e-6)
