"""Edges of noised histograms follow the released model, exactly, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.metrics.score_edges import SCORE_BINS, edges_around, score_edges

HEADS = st.tuples(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9),
    st.floats(-(2.0**100), 2.0**100, width=32),
)


def head(weight: list[float], bias: float) -> dict[str, np.ndarray]:
    return {
        "head.weight": np.array([weight], np.float32),
        "head.bias": np.array([bias], np.float32),
        "other": np.ones(2),
    }


@settings(deadline=None, max_examples=300)
@given(HEADS)
def test_whatever_the_model_is_edges_are_finite_and_ascending(parts: tuple[list[float], float]) -> None:
    edges = score_edges(head(*parts))
    assert edges.shape == (SCORE_BINS - 1,)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    assert 0 in edges or not edges[0] < 0 < edges[-1]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-999, 999), min_size=1, max_size=9).filter(any), st.integers(-14, 14))
def test_edges_go_with_the_scores(weight: list[int], power: int) -> None:
    one = score_edges(head([w / 128 for w in weight], 0.25))
    other = score_edges(head([2.0**power * w / 128 for w in weight], 0.25 * 2.0**power))
    assert np.array_equal(one * 2.0**power, other)
    far = score_edges(head([w / 128 for w in weight], 2.0**14 + 0.25))
    moved = far - 2.0**14 != one
    assert moved.sum() <= 1, "but for the edge nearest to 0, which is moved there"
    assert not moved.any() or one[moved] == 0


def test_the_order_of_weights_does_not_matter() -> None:
    weight = np.random.default_rng(0).normal(size=1280).astype(np.float32)
    edges = [score_edges(head(order.tolist(), 0.5)) for order in (weight, weight[::-1], np.sort(weight))]
    assert all(np.array_equal(edges[0], other) for other in edges[1:])


def test_logits_of_usual_features_lie_in_many_bins() -> None:
    """Means up to 31 norms from the bias, deviations from 0.8 to 7 norms: what was seen."""
    edges = score_edges(head([0.75], 0.0))
    for mean, deviation in ((-31.2, 6.8), (6.8, 7.2), (-2.5, 1.25), (-1.4, 0.76), (-16.7, 3.8)):
        low, high = (np.searchsorted(edges, 0.75 * (mean + side * deviation)) for side in (-2, 2))
        assert high - low >= 12


def test_a_neck_has_features_of_norm_1_in_all() -> None:
    assert np.array_equal(score_edges(head([3.0], 0.0), 64), score_edges(head([3.0 / 8], 0.0)))


def test_a_model_without_a_head_has_edges_around_0() -> None:
    assert np.array_equal(score_edges({"w": np.ones((3, 4), np.float32)}), edges_around(0.0, 1.0))
    assert edges_around(0.0, 1.0)[SCORE_BINS // 2 - 1] == 0
    assert np.diff(edges_around(0.0, 1.0)).min() == pytest.approx(1 / 7, abs=1e-3)
