"""The benchmark of private gradients: a row holds what it says, for a network that takes no time."""

import itertools
from typing import Any

import pytest
import torch

from melfed.common.model.backbones.spec import Trainable
from melfed.simulations.benchmarks import gradients


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Methods whose steps were made, and what they train; memory is made up."""
    steps: list[tuple[str, str]] = []

    def make_step(method: str, backbone: str, size: int, part: Trainable, batch: int) -> gradients.Step:
        steps.append((method, part))
        return original(method, backbone, size, part, batch)

    original = gradients.make_step
    monkeypatch.setattr(gradients, "make_step", make_step)
    monkeypatch.setattr(gradients, "peak_memory", lambda method, *_: 200 if method == "book-keeping" else 100)
    return steps


def test_a_row(made: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    took = itertools.cycle([2.0, 3.0, 1.0, 6.0, 4.0, 10.0, 5.0, 20.0])
    monkeypatch.setattr(gradients, "_timed", lambda _: next(took))
    row = gradients.measure("simple_cnn", 32, "full", 4, 2)
    assert [method for method, _ in made] == list(gradients.METHODS)  # the ordinary step is there once
    assert not row["cannot_run"]
    assert row["seconds"] == dict(zip(gradients.METHODS, (2, 3, 1, 6), strict=True)) | {gradients.FULL: 2}
    assert row["time_over_ordinary"] == row["time_over_ordinary_full"] == 2  # of 3 / 2 and 10 / 4
    # Of Opacus's ways the one that book-keeping saves least against: 3 / 1 and 10 / 5.
    assert row["time_over_fastest_opacus"] == 2.5
    assert row["memory_over_ordinary"] == 2
    assert f"simple_cnn 32 px full {torch.get_num_threads()}" in gradients.table([row])


def test_a_part_is_held_against_training_everything(made: list[tuple[str, str]]) -> None:
    row = gradients.measure("simple_cnn", 32, "head", 4, 1, opacus=False)
    assert made == [("ordinary", "head"), ("book-keeping", "head"), ("ordinary", "full")]
    assert row["time_over_fastest_opacus"] is None
    assert row["seconds"].keys() == {"ordinary", "book-keeping", gradients.FULL}


def test_the_mean_of_full_training_is_geometric_and_by_threads() -> None:
    def row(part: str, threads: int, ratio: float) -> dict[str, Any]:
        return {"part": part, "threads": threads, "time_over_ordinary": ratio}

    rows = [row("full", 1, 1.0), row("full", 1, 4.0), row("head", 1, 9.0), row("full", 2, 1.5)]
    found = gradients.summed_up(rows)
    assert found["1"] == {"mean": pytest.approx(2), "largest": 4}
    assert found["2"] == {"mean": pytest.approx(1.5), "largest": 1.5}
    assert gradients.processor()


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
def test_the_network_rewritten_for_opacus_computes_the_same(backbone: str) -> None:
    trunk = gradients.network(backbone, "full", channels_last=False).trunk
    images = torch.randn(2, 3, 32, 32)
    expected = trunk(images)
    rewritten = gradients.without_operations_in_place(trunk)
    assert torch.equal(rewritten(images), expected)
    calls = [node for node in rewritten.graph.nodes if node.op == "call_function"]
    assert not any(node.kwargs.get("inplace") or node.target.__name__ == "iadd" for node in calls)


@pytest.mark.skipif(not gradients.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_sees_the_activations() -> None:
    small, large = (gradients.peak_memory("book-keeping", "simple_cnn", size, "full", 8) for size in (64, 256))
    assert small is not None
    assert large is not None
    # The first convolution's output alone, in float32.
    assert large - small > 8 * 11 * (256**2 - 64**2) * 4
