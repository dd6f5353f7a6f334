"""The mean's benchmark on small updates: what it prints, and that both sides compute the same."""

import json

import pytest

from melfed.simulations.benchmarks import mean


def test_it_measures_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    mean.main(updates=5, megabytes=0.4, repeats=2, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["same_bits_in_another_order"]
    assert found["largest_difference"] < 1e-8
    assert found["ratio"] > 0
    assert found["ours"] > 0
    assert found["reference"] > 0


def test_memory_is_that_of_one_sum() -> None:
    """Twice the bytes of a model, and the blocks, which count for something beside so small a one."""
    updates, weights = mean.updates_of(3, 8.0)
    assert mean.peak_models(updates, weights) < 2.6
