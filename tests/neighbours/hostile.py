"""Models that no training would make, yet every check lets through: finite numbers of single precision, all of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from hypothesis import strategies as st

from melfed.common.tensors import Tensors

Look = Literal["own", "normal", "constant", "positive", "zero", "sparse", "opposed"]
LOOKS: tuple[Look, ...] = get_args(Look)
LARGEST = float(np.finfo(np.float32).max)
SMALLEST_EXPONENT, LARGEST_EXPONENT = -45.0, 38.5


@dataclass(frozen=True)
class Shape:
    """How one tensor is filled.

    Attributes:
        look: its own values; normal numbers; one number; their sizes; zeros; a few normal numbers; pairs of channels
            that cancel but for rounding.
        exponent: decimal, of the scale.
        sign: 1 or -1.
        seed: of what is random.
    """

    look: Look
    exponent: float = 0.0
    sign: int = 1
    seed: int = 0

    def fill(self, own: np.ndarray) -> np.ndarray:
        """Return a finite float32 tensor of the shape of `own`."""
        random = np.random.default_rng(self.seed)
        normal = random.standard_normal(own.shape)
        values = {
            "own": own.astype(np.float64),
            "normal": normal,
            "constant": np.ones(own.shape),
            "positive": np.abs(normal),
            "zero": np.zeros(own.shape),
            "sparse": normal * (random.random(own.shape) < 0.05),
            "opposed": _opposed(normal),
        }[self.look]
        with np.errstate(over="ignore", under="ignore"):
            scaled = values * 10.0 ** min(self.exponent, 308.0) * self.sign
            return np.clip(scaled, -LARGEST, LARGEST).astype(np.float32)


def _opposed(values: np.ndarray) -> np.ndarray:
    """Return values of which every second one along the inputs is the one before with another sign."""
    if values.ndim < 2 or values.shape[1] < 2:
        return values
    opposed = values.copy()
    half = values.shape[1] // 2
    opposed[:, half : 2 * half] = -opposed[:, :half]
    return opposed


Genome = Mapping[str, Shape]


def build(own: Tensors, genome: Genome) -> Tensors:
    """Return the model that a genome describes; tensors that it does not name keep their values."""
    return {name: genome[name].fill(tensor) if name in genome else tensor for name, tensor in own.items()}


def shapes() -> st.SearchStrategy[Shape]:
    """Return what draws shapes: any scale from the smallest subnormal to the largest number, 1 the simplest."""
    exponents = st.one_of(st.just(0.0), st.floats(-3, 3), st.floats(SMALLEST_EXPONENT, LARGEST_EXPONENT))
    return st.builds(Shape, st.sampled_from(LOOKS), exponents, st.sampled_from((1, -1)), st.integers(0, 9))


def genomes(names: list[str]) -> st.SearchStrategy[dict[str, Shape]]:
    """Return what draws a shape for every tensor, for one, or the same for all."""
    each = st.fixed_dictionaries({name: shapes() for name in names})
    one = st.builds(lambda name, shape: {name: shape}, st.sampled_from(names), shapes())
    same = st.builds(lambda shape: dict.fromkeys(names, shape), shapes())
    return st.one_of(one, same, each)


def climb(
    names: list[str], measure: Callable[[Genome], float], steps: int, seed: int = 0, enough: float = math.inf
) -> tuple[float, Genome]:
    """Search for the model with the largest measure: from several beginnings, one or a few tensors changed at a time.

    Args:
        names: of the tensors.
        measure: of a genome; infinite ends the search.
        steps: how often it is measured.
        seed: of the search.
        enough: a measure beyond this ends the search.

    Returns:
        The largest measure, and where it was.
    """
    random = np.random.default_rng(seed)
    best, where = -math.inf, {}
    here, at = -math.inf, {}
    stuck = 0
    for step in range(steps):
        anew = stuck > 15 or step < 4
        tried = _random(names, random) if anew else _changed(at, names, random)
        found = measure(tried)
        if found > here or anew:
            here, at, stuck = found, tried, 0
        else:
            stuck += 1
        if found > best:
            best, where = found, tried
        if best > enough or math.isinf(best):
            break
        if step == 4:
            here, at = best, dict(where)
    return best, where


def _random(names: list[str], random: np.random.Generator) -> dict[str, Shape]:
    wide = random.random() < 0.5
    return {name: _shape(random, wide) for name in names if random.random() < 0.8}


def _shape(random: np.random.Generator, wide: bool) -> Shape:
    exponent = random.uniform(SMALLEST_EXPONENT, LARGEST_EXPONENT) if wide else random.normal(0, 2)
    return Shape(
        LOOKS[random.integers(len(LOOKS))], float(exponent), 1 - 2 * int(random.integers(2)), int(random.integers(100))
    )


def _changed(at: Genome, names: list[str], random: np.random.Generator) -> dict[str, Shape]:
    changed = dict(at)
    for name in random.choice(names, int(random.integers(1, 4))):
        old = changed.get(name, Shape("own"))
        kind = random.integers(4)
        if kind == 0:
            changed[name] = _shape(random, bool(random.integers(2)))
        elif kind == 1:
            changed[name] = replace(old, exponent=float(np.clip(old.exponent + random.normal(0, 4), -45, 38.5)))
        elif kind == 2:
            changed[name] = replace(old, exponent=float(np.clip(old.exponent + random.normal(0, 0.5), -45, 38.5)))
        else:
            changed[name] = replace(old, look=LOOKS[random.integers(len(LOOKS))], seed=int(random.integers(100)))
    return changed
