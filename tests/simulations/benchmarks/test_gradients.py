"""The benchmark of private gradients: a row holds what it says, for a network that takes no time."""

import pytest
import torch

from melfed.simulations.benchmarks import gradients


def test_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "peak_memory", lambda method, *_: 200 if method == "book-keeping" else 100)
    row = gradients.measure("simple_cnn", 32, "full", 4, 1)
    assert row["seconds"].keys() == {*gradients.METHODS, "ordinary full"}
    assert not row["cannot_run"]
    seconds = row["seconds"]
    assert row["time_over_ordinary"] == seconds["book-keeping"] / seconds["ordinary"]
    opacus = min(seconds["opacus hooks"], seconds["opacus ghost"])
    assert row["time_over_fastest_opacus"] == seconds["book-keeping"] / opacus
    assert row["memory_over_ordinary"] == 2
    assert "simple_cnn 32 px full" in gradients.table([row])


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
