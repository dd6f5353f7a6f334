"""No input and no gradient leads a patient's share past the bound, or a sum to a value that is not finite."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from melfed.client.privacy import layer_rules as layers
from melfed.client.privacy import shares
from melfed.client.privacy.gradients import Clipping, PrivateGradients
from melfed.client.privacy.noise import ROUNDING
from melfed.common.model.norms import FrozenStatisticsNorm

LARGEST = torch.finfo(torch.float32).max


class ChannelsLast(nn.Sequential):
    """A layer that gets its inputs and gradients with their channels last, as networks do on a CPU."""


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear, ghost of one position": (nn.Linear(48, 40), (48,)),
    "linear, ghost": (nn.Linear(48, 40), (3, 48)),
    "linear, rows": (nn.Linear(3, 2), (9, 3)),
    "convolution, ghost": (nn.Conv2d(64, 64, 3, stride=2, padding=1), (64, 6, 5)),
    "convolution, rows": (nn.Conv2d(2, 3, 3, padding=1), (2, 9, 9)),
    "convolution, rows of thousands": (nn.Conv2d(16, 24, 3, padding=1), (16, 12, 12)),
    "grouped": (nn.Conv2d(6, 6, 3, groups=3), (6, 5, 5)),
    "depthwise, shifted": (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5)),
    "depthwise, side by side": (ChannelsLast(nn.Conv2d(16, 16, 3, groups=16)), (16, 5, 5)),
    "strided, patches": (ChannelsLast(nn.Conv2d(16, 4, 3, stride=2, padding=1)), (16, 7, 6)),
    "1x1, ghost": (nn.Conv2d(64, 64, 1), (64, 2, 2)),
    "1x1, rows": (nn.Conv2d(4, 5, 1), (4, 6, 6)),
    "frozen norm": (FrozenStatisticsNorm(nn.BatchNorm2d(6)), (6, 4, 4)),
    "group norm": (nn.GroupNorm(2, 6), (6, 4, 4)),
    "layer norm": (nn.LayerNorm(40), (3, 40)),
}

MAGNITUDES = st.sampled_from(
    [0.0, 1e-45, 1e-40, 1e-38, 1e-30, 1e-20, 1e-10, 1e-3, 1.0, 1e3, 1e8, 1e15, 1e19, 1e23, 1e30, LARGEST, math.inf]
)
PATTERNS = st.sampled_from(["random", "constant", "mixed", "opposed", "one not a number", "one infinite"])
CLIPPINGS = st.builds(Clipping, st.sampled_from([1e-6, 1e-3, 1.0, 7.3, 1e6]), st.booleans())


def hostile(shape: tuple[int, ...], magnitude: float, pattern: str, random: np.random.Generator) -> Tensor:
    """Return float32 values of a magnitude: alike, of all magnitudes, or such that positions nearly cancel."""
    values = random.standard_normal(shape)
    if pattern == "constant":
        values = np.ones(shape)
    elif pattern == "mixed":
        values = values * 10.0 ** random.uniform(-30, 10, shape)
    elif pattern == "opposed":
        values = np.broadcast_to(values[:1], shape) * (1 + 1e-7 * random.standard_normal(shape))
        values = values * np.resize([1, -1], shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    with np.errstate(all="ignore"):
        result = np.where(values == 0, 0, values * magnitude).astype(np.float32)
    if pattern == "one not a number":
        result.flat[0] = np.nan
    elif pattern == "one infinite":
        result.flat[-1] = np.inf
    return torch.from_numpy(result)


def clipped(layer: nn.Module, x: Tensor, g: Tensor, patients: list[int], clipping: Clipping) -> Tensor:
    """Return the sum of all parameters, float64, for inputs x and gradients g at the layer's output."""
    if isinstance(layer, ChannelsLast):
        x, g = (values.to(memory_format=torch.channels_last) for values in (x, g))
    with PrivateGradients(layer, clipping) as private:
        private.add(lambda: (layer(x) * g).flatten(1).sum(1), np.array(patients), torch.ones(len(x)))
    return torch.cat([value.flatten().double() for value in private.sums.values()])


@pytest.mark.parametrize("kind", LAYERS)
@settings(deadline=None, max_examples=60)
@given(
    magnitudes=st.tuples(MAGNITUDES, MAGNITUDES),
    patterns=st.tuples(PATTERNS, PATTERNS),
    images=st.integers(1, 3),
    clipping=CLIPPINGS,
    seed=st.integers(0, 1 << 30),
)
@example((1e23, 1e22), ("random", "random"), 1, Clipping(1.0), 0)
@example((1.0, 1e30), ("constant", "constant"), 1, Clipping(1.0), 0)
@example((1e15, 1.0), ("constant", "opposed"), 2, Clipping(1e-3), 0)
def test_a_share_is_finite_and_at_most_c(
    kind: str,
    magnitudes: tuple[float, float],
    patterns: tuple[str, str],
    images: int,
    clipping: Clipping,
    seed: int,
) -> None:
    layer, shape = LAYERS[kind]
    random = np.random.default_rng(seed)
    x = hostile((images, *shape), magnitudes[0], patterns[0], random)
    g = hostile(tuple(layer(torch.zeros(images, *shape)).shape), magnitudes[1], patterns[1], random)
    share = clipped(layer, x, g, [0] * images, clipping)
    assert bool(share.isfinite().all())
    assert float(torch.linalg.vector_norm(share)) <= clipping.norm * (1 + 1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@settings(deadline=None, max_examples=20)
@given(magnitudes=st.tuples(MAGNITUDES, MAGNITUDES), patterns=st.tuples(PATTERNS, PATTERNS), seed=st.integers(0, 99))
def test_a_hostile_patient_moves_the_sum_of_the_others_by_rounding_at_most(
    kind: str, magnitudes: tuple[float, float], patterns: tuple[str, str], seed: int
) -> None:
    """Padding takes a patient's place where it is not there, so that all shapes are the same."""
    layer, shape = LAYERS[kind]
    random, clipping = np.random.default_rng(seed), Clipping(0.1)
    outputs = tuple(layer(torch.zeros(1, *shape)).shape[1:])
    x, g = torch.randn(5, *shape), torch.randn(5, *outputs)
    x[2], g[2] = (
        hostile(shape, magnitudes[0], patterns[0], random),
        hostile(outputs, magnitudes[1], patterns[1], random),
    )
    present = clipped(layer, x, g, [0, 1, 2, 3, 4], clipping)
    x[2], g[2] = x[1], g[1]
    absent = clipped(layer, x, g, [0, 1, -1, 3, 4], clipping)
    difference = float(torch.linalg.vector_norm(present - absent))
    assert difference <= 0.1 * (1 + 1e-6 + ROUNDING / 2)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_gradient_without_an_end_leaves_its_patient_out(kind: str) -> None:
    """Its norm once became 1.8e308 instead of infinite, its factor 0, and 0 · ∞ the sum of all."""
    layer, shape = LAYERS[kind]
    outputs = tuple(layer(torch.zeros(1, *shape)).shape[1:])
    x, g = torch.randn(3, *shape), torch.randn(3, *outputs)
    x[2], g[2] = LARGEST, LARGEST
    found = clipped(layer, x, g, [0, 1, 2], Clipping(1.0))
    assert bool(found.isfinite().all())
    assert bool(found.any())
    if "norm" not in kind:
        x[2], g[2] = x[1], g[1]
        assert torch.equal(found, clipped(layer, x, g, [0, 1, -1], Clipping(1.0)))


def test_a_factor_that_is_subnormal_leaves_its_patient_out() -> None:
    """C over the norm was rounded up to the smallest float32: a share of 1.99 C."""
    x, g = torch.full((1, 1), 4e22), torch.full((1, 1), 2.4e22)
    assert not clipped(nn.Linear(1, 1, bias=False), x, g, [0], Clipping(1.0)).any()
    x, g = torch.full((1, 1), 4e14), torch.full((1, 1), 2.4e14)
    assert float(clipped(nn.Linear(1, 1, bias=False), x, g, [0], Clipping(1.0))) == pytest.approx(1, abs=1e-6)


def test_norms_of_wide_rows_are_not_below_the_truth() -> None:
    """In float32, many small values vanish beside a few large ones."""
    layer = nn.Conv2d(192, 192, 3, padding=1, bias=False)
    x, g = torch.full((1, 192, 32, 32), 0.1), torch.full((1, 192, 32, 32), 1.6e-4)
    g[:, 0] = 0.1
    length = float(torch.linalg.vector_norm(clipped(layer, x, g, [0], Clipping(1.0))))
    assert 1 - 1e-5 <= length <= 1 + 1e-6
    for values in (torch.full((2, 5001), 0.1), torch.randn(3, 40_000), torch.full((1, 4096), 1e-18)):
        found, truth = shares.squared_norms(values), values.double().square().sum(1)
        assert bool((found >= truth).all())
        assert bool((found <= truth * (1 + 5e-6)).all())


@pytest.mark.parametrize("cancellation", [1.0, 1e2, 1e5, 1e9])
def test_a_ghost_norm_is_not_below_that_of_the_sum(cancellation: float) -> None:
    """Two positions that cancel but for a part."""
    layer, shape = LAYERS["linear, ghost"]
    x, g = torch.randn(1, *shape).abs(), torch.randn(1, 3, 40)
    x[0, 1], g[0, 1] = x[0, 0] * (1 + 1 / cancellation), -g[0, 0]
    share = clipped(layer, x, g, [0], Clipping(0.01))
    assert float(torch.linalg.vector_norm(share)) <= 0.01 * (1 + 1e-6)


def test_groups_hold_every_patient_once_and_few_positions() -> None:
    for patients, positions in [(1, 1), (100, 1), (16, 16), (16, 64), (9, 5000)]:
        parts = list(shares.groups(patients, positions))
        assert np.concatenate([np.arange(patients)[part] for part in parts]).tolist() == list(range(patients))
        size = min(patients, parts[0].stop)
        assert size == 1 or size**2 * positions <= shares.TOGETHER
    assert 4 * (64 * 8 + 1) * 8 * shares.CANCELLATION * 2.0**-24 <= ROUNDING
    assert 4 * (1 * 64 + 1) * 64 * shares.CANCELLATION * 2.0**-24 <= ROUNDING


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("one_each", [True, False])
def test_a_gradient_is_the_same_to_the_bit_in_any_company(
    kind: str, one_each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "one_patient_at_a_time", lambda _: one_each)
    layer, shape = LAYERS[kind]
    outputs = tuple(layer(torch.zeros(1, *shape)).shape[1:])
    mine = torch.randn(2, *shape), torch.randn(2, *outputs)
    found = []
    for place in (0, 1, 3, 6):
        x, g = torch.randn(14, *shape) * 1e3, torch.randn(14, *outputs)
        x[2 * place : 2 * place + 2], g[2 * place : 2 * place + 2] = mine
        numbers = np.repeat(np.arange(-7, 0), 2)
        numbers[2 * place : 2 * place + 2] = 0
        found.append(clipped(layer, x, g, list(numbers), Clipping(1e-2)))
    assert float(torch.linalg.vector_norm(found[0])) > 0
    assert all(torch.equal(value, found[0]) for value in found)


@pytest.mark.parametrize(
    ("kind", "form"), [("depthwise, side by side", "_side_by_side"), ("strided, patches", "_patch_products")]
)
def test_forms_of_channels_that_lie_last_are_met(kind: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    owner = layers if form == "_side_by_side" else layers._Convolution
    original = getattr(owner, form)
    monkeypatch.setattr(owner, form, lambda *arguments: met.append(1) or original(*arguments))
    layer, shape = LAYERS[kind]
    x = torch.randn(4, *shape)
    clipped(layer, x, torch.randn(layer(x).shape), [0, 0, 1, 1], Clipping(1.0))
    assert met
