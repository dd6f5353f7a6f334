"""The part of a noised histogram in which the scores lie."""

import numpy as np
import numpy.typing as npt
import pytest

from melfed.common.metrics.noisy_focus import CLASSES, focus
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.metrics.score_edges import edges_around
from tests.common.noisy import SeededNoise, binormal, noised


def histogram(edges: npt.NDArray[np.float64], sigma: float = 0.0) -> NoisyHistogram:
    logits, targets = binormal(np.random.default_rng(0), 120, 600)
    return noised(logits, targets, sigma, SeededNoise(0), edges)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize(("centre", "unit"), [(0.0, 1.0), (-2.0, 0.25), (30.0, 8.0)])
def test_sums_over_joined_bins_are_those_of_the_bins(centre: float, unit: float, sigma: float) -> None:
    whole = histogram(edges_around(centre, unit), sigma)
    found = focus(whole)
    assert set(found.edges) <= set(whole.edges)
    assert 15 <= len(found.edges) <= 96
    assert (0.0 in found.edges) == (0.0 in whole.edges)
    starts = np.concatenate(([0], np.searchsorted(whole.edges, found.edges) + 1))
    joins = np.zeros((len(starts), len(whole.edges) + 1))
    for row, (start, end) in enumerate(zip(starts, [*starts[1:], len(whole.edges) + 1], strict=True)):
        joins[row, start:end] = 1
    for name in CLASSES:
        np.testing.assert_allclose(found.counts[name], joins @ whole.counts(name), atol=1e-6)
        np.testing.assert_allclose(found.noise[name], joins @ whole.noise(name) @ joins.T, atol=1e-6)


def test_bins_that_hold_nobody_are_joined_and_the_others_keep_their_edges() -> None:
    whole = histogram(edges_around(0.0, 1.0))
    found = focus(whole)
    assert len(found.edges) < len(whole.edges)
    low, high = found.edges[[0, -1]]
    assert set(found.edges) == {edge for edge in whole.edges if low <= edge <= high}
    for name in CLASSES:
        assert abs(found.counts[name][[0, -1]]).max() < 1e-6
