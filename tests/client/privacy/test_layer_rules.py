"""Every kind of layer, alone in a small network, against a loop over patients."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import (
    Conv2dSame,
    GroupNorm1,
    LayerNorm,
    LayerNorm2d,
    LayerScale,
    LayerScale2d,
    RmsNorm,
    RmsNorm2d,
    SimpleNorm,
)
from torch import Tensor, nn

from melfed.client.privacy import layer_rules as layers
from melfed.client.privacy.gradients import Clipping, IntArray, PrivateGradients
from melfed.common.errors import StudyError
from melfed.common.model.norms import FrozenStatisticsNorm
from tests.client.privacy.patient_loop import clipped_sums, error, randomise

PATIENTS = st.lists(st.integers(1, 3), min_size=1, max_size=4).flatmap(
    lambda counts: st.permutations([patient for patient, count in enumerate(counts) for _ in range(count)])
)
"""Patients of one to three images each, in any order."""


@pytest.fixture(params=["each patient alone", "all at once"], autouse=True)
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of computing rows: that of CPUs, and that of accelerators."""
    monkeypatch.setattr(layers, "one_patient_at_a_time", lambda _: request.param == "each patient alone")
    return


def assert_exact(layer: nn.Module, x: Tensor, patients: list[int]) -> None:
    """Assert exact sums for a layer between two others, so that its place in the graph is an inner one."""
    first = nn.Conv2d(x.shape[1], x.shape[1], 1) if x.dim() == 4 else nn.Linear(x.shape[-1], x.shape[-1])
    model = nn.Sequential(first, nn.Tanh(), layer, nn.ReLU(inplace=True)).double()
    randomise(model, seed=1)
    scale = torch.randn(model(x).shape, dtype=x.dtype)

    def losses_of(images: IntArray) -> Tensor:
        return (model(x[images]) * scale[images]).flatten(1).sum(1).square()

    numbers, clipping = np.array(patients), Clipping(3.0)
    expected, norms = clipped_sums(model, losses_of, numbers, clipping)
    if float(norms.max()) < 1e-9:  # a dead ReLU, or one value normalised to 0: nothing to be relative to
        return
    with PrivateGradients(model, clipping) as private:
        found = private.add(lambda: losses_of(np.arange(len(numbers))), numbers)
        assert error(private.sums, expected) <= 1e-9
        torch.testing.assert_close(found, norms, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", ["plain", "grouped", "depthwise", "same"])
@settings(deadline=None, max_examples=30)
@given(data=st.data(), patients=PATIENTS)
def test_convolutions(kind: str, data: st.DataObject, patients: list[int]) -> None:
    groups = {"plain": 1, "same": 1}.get(kind) or data.draw(st.integers(2, 4))
    inputs = groups * (1 if kind == "depthwise" else data.draw(st.integers(1, 3)))
    outputs = groups * (1 if kind == "depthwise" else data.draw(st.sampled_from([1, 3, 40])))
    pair = lambda low, high: (data.draw(st.integers(low, high)), data.draw(st.integers(low, high)))  # noqa: E731
    kernel, stride, dilation, padding = pair(1, 5), pair(1, 3), pair(1, 2), pair(0, 3)
    size = pair(1, 12)
    if kind == "same":
        layer: nn.Conv2d = Conv2dSame(inputs, outputs, kernel, stride, dilation=dilation)
    else:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=data.draw(st.booleans()))
        assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    x = torch.randn(len(patients), inputs, *size, dtype=torch.double)
    if data.draw(st.booleans()):
        x, layer = (value.to(memory_format=torch.channels_last) for value in (x, layer))
    assert_exact(layer, x, patients)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_paddings_that_are_named(padding: str, kernel: int) -> None:
    assert_exact(nn.Conv2d(2, 3, kernel, padding=padding), torch.randn(4, 2, 5, 6, dtype=torch.double), [0, 1, 1, 2])


@settings(deadline=None, max_examples=20)
@given(
    patients=PATIENTS,
    between=st.lists(st.integers(1, 6), max_size=2),
    inputs=st.integers(1, 9),
    outputs=st.sampled_from([1, 4, 60]),
    bias=st.booleans(),
)
def test_linear(patients: list[int], between: list[int], inputs: int, outputs: int, bias: bool) -> None:
    if len(between) == 2:
        between = between[:1]  # four dimensions would put a convolution before it
    x = torch.randn(len(patients), *between, inputs, dtype=torch.double)
    assert_exact(nn.Linear(inputs, outputs, bias), x, patients)


@settings(deadline=None, max_examples=20)
@given(patients=PATIENTS, size=st.integers(1, 5), learning=st.sampled_from(["weight", "bias", "weight bias"]))
@pytest.mark.parametrize(
    "kind", ["frozen", "group", "layer", "layer of two", "timm's group", "timm's layer", "timm's map"]
)
def test_norms(kind: str, patients: list[int], size: int, learning: str) -> None:
    channels, shape = 6, (6, size, size + 1)
    if kind in {"layer", "timm's layer"}:
        shape = (size, channels)
    layer = {
        "frozen": lambda: FrozenStatisticsNorm(nn.BatchNorm2d(channels, eps=1e-3)),
        "group": lambda: nn.GroupNorm(3, channels),
        "layer": lambda: nn.LayerNorm(channels),
        "layer of two": lambda: nn.LayerNorm(shape[1:]),
        "timm's group": lambda: GroupNorm1(channels),
        "timm's layer": lambda: LayerNorm(channels),
        "timm's map": lambda: LayerNorm2d(channels),
    }[kind]()
    for name in ("weight", "bias"):
        getattr(layer, name).requires_grad_(name in learning)
    assert_exact(layer, torch.randn(len(patients), *shape, dtype=torch.double), patients)


@settings(deadline=None, max_examples=15)
@given(patients=PATIENTS, size=st.integers(1, 4))
@pytest.mark.parametrize("kind", ["rms", "timm's rms", "timm's rms of maps", "scale", "scale of maps"])
def test_what_transformers_have_besides(kind: str, patients: list[int], size: int) -> None:
    channels, shape = 6, (size, 6)
    if kind.endswith("maps"):
        shape = (6, size, size + 1)
    layer = {
        "rms": lambda: nn.RMSNorm(channels),
        "timm's rms": lambda: RmsNorm(channels),
        "timm's rms of maps": lambda: RmsNorm2d(channels),
        "scale": lambda: LayerScale(channels),
        "scale of maps": lambda: LayerScale2d(channels),
    }[kind]()
    assert_exact(layer, torch.randn(len(patients), *shape, dtype=torch.double), patients)


def test_a_norm_of_timm_that_is_not_known_is_refused() -> None:
    with pytest.raises(StudyError, match="does not know a patient's gradients of weight in it"):
        layers.rule_for("it", SimpleNorm(6))


@pytest.mark.parametrize("channels", [2, 64])
def test_both_forms_of_a_convolution_are_met(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many weights at few positions take the ghost norm, few at many positions the rows."""
    ghost = []
    original = layers._Convolution._ghost_share
    monkeypatch.setattr(layers._Convolution, "_ghost_share", lambda *arguments: ghost.append(1) or original(*arguments))
    layer = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    assert_exact(layer, torch.randn(3, channels, 6, 5, dtype=torch.double), [0, 1, 1])
    assert bool(ghost) == (channels == 64)


@settings(deadline=None, max_examples=20)
@given(
    patients=PATIENTS,
    depthwise=st.booleans(),
    stride=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    padding=st.integers(0, 2),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    same=st.booleans(),
)
def test_convolutions_of_whole_vectors(
    patients: list[int],
    depthwise: bool,
    stride: tuple[int, int],
    padding: int,
    size: tuple[int, int],
    same: bool,
) -> None:
    groups, outputs = (16, 16) if depthwise else (1, 3)
    if same:
        layer: nn.Conv2d = Conv2dSame(16, outputs, 3, stride, groups=groups)
    else:
        layer = nn.Conv2d(16, outputs, 3, stride, padding, groups=groups)
    x = torch.randn(len(patients), 16, *size, dtype=torch.double).to(memory_format=torch.channels_last)
    assert_exact(layer.to(memory_format=torch.channels_last), x, patients)


def test_a_convolution_padded_by_reflection_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(Exception, match="0 pads by 'reflect'"):
        PrivateGradients(model, Clipping(1.0))
