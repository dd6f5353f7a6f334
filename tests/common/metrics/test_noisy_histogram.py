"""Noised histograms decode, merge, travel, and refuse what no clinic can have measured."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import DataError
from melfed.common.metrics.histogram import MAX_IMAGES, ScoreHistogram
from melfed.common.metrics.noisy import noisy_metrics
from melfed.common.metrics.noisy_histogram import (
    OLD_EDGES,
    SCALE,
    WEIGHTS,
    Histogram,
    NoisyHistogram,
    histogram_from_arrays,
    histogram_from_lists,
    plus,
    pooled,
)
from melfed.common.metrics.score_edges import SCORE_BINS, edges_around
from tests.common.noisy import EDGES, SeededNoise, binormal, noised

LOGITS = st.lists(st.tuples(st.floats(-12, 12), st.integers(0, 1)), max_size=30)


def histogram(rows: list[tuple[float, int]], sigma: float = 0.0, seed: int = 0) -> NoisyHistogram:
    logits, targets = np.array([x for x, _ in rows]), np.array([float(y) for _, y in rows])
    return noised(logits, targets, sigma, SeededNoise(seed))


def same(a: NoisyHistogram, b: NoisyHistogram) -> bool:
    return all(np.array_equal(array, b.to_arrays()[name]) for name, array in a.to_arrays().items())


def test_weights_are_the_square_root_of_the_running_sum() -> None:
    root = WEIGHTS["positives"] / 1024
    assert np.allclose(root @ root, np.tril(np.ones((SCORE_BINS, SCORE_BINS))), atol=0.01)
    assert np.array_equal(WEIGHTS["negatives"], WEIGHTS["positives"].T)


@settings(deadline=None, max_examples=60)
@given(LOGITS)
def test_without_noise_the_counts_come_back(rows: list[tuple[float, int]]) -> None:
    h = histogram(rows)
    assert h.noise_std == 0.0
    for name, target in (("negatives", 0), ("positives", 1)):
        x = np.array([x for x, y in rows if y == target])
        expected = np.bincount(np.searchsorted(EDGES, x, side="right"), minlength=SCORE_BINS)
        assert np.allclose(h.counts(name), expected, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(LOGITS, LOGITS, LOGITS)
def test_merging_adds_counts_and_variances(
    a: list[tuple[float, int]], b: list[tuple[float, int]], c: list[tuple[float, int]]
) -> None:
    x, y, z = histogram(a, 0.5, 1), histogram(b, 2.0, 2), histogram(c, 0.0, 3)
    assert same((x + y) + z, x + (y + z))
    assert same(x + y, y + x)
    assert same(x + NoisyHistogram.empty(EDGES), x)
    merged = x + y + z
    assert merged.noise_std**2 == pytest.approx(x.noise_std**2 + y.noise_std**2)
    for name in ("negatives", "positives"):
        assert np.allclose(merged.counts(name), sum(h.counts(name) for h in (x, y, z)))
        assert np.allclose(merged.noise(name), x.noise(name) + y.noise(name))


@pytest.mark.parametrize("name", ["negatives", "positives"])
def test_the_stated_noise_is_that_of_the_counts(name: str) -> None:
    """Limits are 6 standard deviations, false alarms 2e-9 each; besides, the seed is fixed."""
    noise, empty = SeededNoise(4), np.zeros(0)
    draws = [noised(empty, empty, 1.5, noise) for _ in range(1500)]
    counts = np.array([h.counts(name) for h in draws])
    whitened = np.linalg.solve(np.linalg.cholesky(draws[0].noise(name)), counts.T)
    deviation = np.sqrt(2 / counts.size)
    assert abs(float((whitened**2).mean()) - 1) < 6 * deviation
    assert abs(float(whitened.mean())) < 6 / np.sqrt(counts.size)
    total = counts.sum(axis=1).std() / np.sqrt(draws[0].noise(name).sum())
    assert abs(total - 1) < 6 / np.sqrt(2 * len(draws))


def test_running_sums_have_far_less_noise_than_bins_measured_alone() -> None:
    h = noised(np.zeros(0), np.zeros(0), 1.0)
    whole = np.ones(SCORE_BINS)
    assert np.sqrt(whole @ h.noise("positives") @ whole) < 0.27 * np.sqrt(SCORE_BINS)


@settings(deadline=None, max_examples=30)
@given(LOGITS, st.sampled_from([0.0, 0.3, 10_000.0]))
def test_every_histogram_survives_network_and_json(rows: list[tuple[float, int]], sigma: float) -> None:
    h = histogram(rows, sigma)
    arrays = {name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in h.to_arrays().items()}
    for back in (
        NoisyHistogram.from_arrays(arrays),
        histogram_from_arrays(arrays),
        histogram_from_lists(json.loads(json.dumps(h.to_lists()))),
    ):
        assert isinstance(back, NoisyHistogram)
        assert same(back, h)


def test_histograms_without_noise_are_recognised_too() -> None:
    exact = ScoreHistogram.from_scores([0.2, 0.8], [0, 1], ["a", "b"])
    for back in (histogram_from_arrays(exact.to_arrays()), histogram_from_lists(exact.to_lists())):
        assert isinstance(back, ScoreHistogram)
        assert back.to_lists() == exact.to_lists()


def test_arrays_are_frozen_copies() -> None:
    mine = np.zeros(SCORE_BINS, dtype=np.int64)
    h = NoisyHistogram(EDGES, mine, mine, np.zeros(1, dtype=np.int64))
    mine[0] = 7
    assert h.positives[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        h.positives[0] = 1


GOOD: dict[str, Any] = noised(np.zeros(3), np.array([0.0, 1.0, 1.0]), 1.0).to_arrays()
ZEROS = np.zeros(SCORE_BINS, dtype=np.int64)
BAD = {
    "missing": ({k: v for k, v in GOOD.items() if k != "negatives"}, "missing or unknown arrays: negatives"),
    "unknown": ({**GOOD, "groups": ZEROS}, "missing or unknown arrays: groups"),
    "floats": ({**GOOD, "positives": ZEROS.astype(np.float64)}, "positives is not an int64 array"),
    "shape": ({**GOOD, "positives": ZEROS[:-1]}, "positives is not an int64 array"),
    "no array": ({**GOOD, "noise_variance": 3}, "noise_variance is not an int64 array"),
    "edges of no number": ({**GOOD, "edges": np.append(EDGES[:-1], np.nan)}, "edges are not ascending"),
    "endless edges": ({**GOOD, "edges": np.append(EDGES[:-1], np.inf)}, "edges are not ascending"),
    "edges twice": ({**GOOD, "edges": np.append(EDGES[:-1], EDGES[-2])}, "edges are not ascending"),
    "edges back": ({**GOOD, "edges": EDGES[::-1].copy()}, "edges are not ascending"),
    "fewer edges": ({**GOOD, "edges": EDGES[:-1]}, "edges is not a float64 array"),
    "edges of old": ({**GOOD, "edges": OLD_EDGES}, "positives is not an int64 array of shape"),
    "no edges": ({**GOOD, "edges": 3.0}, "edges is not a float64 array"),
    "negative variance": ({**GOOD, "noise_variance": np.array([-1])}, "is no variance"),
    "vast variance": ({**GOOD, "noise_variance": np.array([2**62])}, "is no variance"),
    "negative beyond noise": ({**GOOD, "negatives": ZEROS - 17 * SCALE}, "negatives has an entry beyond"),
    "more than anybody has": (
        {**GOOD, "negatives": ZEROS + (MAX_IMAGES + 17) * SCALE},
        "negatives has an entry beyond",
    ),
    "negative without noise": ({**GOOD, "positives": ZEROS - 1, "noise_variance": np.array([0])}, "positives has"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_arrays_are_refused(case: str) -> None:
    arrays, reason = BAD[case]
    with pytest.raises(DataError, match=reason) as caught:
        NoisyHistogram.from_arrays(arrays)
    assert "\n" not in str(caught.value)


def test_what_is_just_within_the_bounds_is_accepted() -> None:
    for shift in (-15 * SCALE, MAX_IMAGES * SCALE):
        NoisyHistogram.from_arrays({**GOOD, "negatives": ZEROS + shift})


@pytest.mark.parametrize("value", [1.5, "x", None, 2**70, [1]])
def test_lists_of_anything_but_whole_numbers_are_refused(value: Any) -> None:
    lists = {**noised(np.zeros(0), np.zeros(0), 1.0).to_lists(), "noise_variance": [value]}
    with pytest.raises(DataError, match="noise_variance"):
        histogram_from_lists(lists)


def test_whether_there_is_a_sum_does_not_depend_on_the_order() -> None:
    low, high = (NoisyHistogram.from_arrays({**GOOD, "negatives": ZEROS + sign * 15 * SCALE}) for sign in (-1, 1))
    assert same(pooled([low, low, high, high]), pooled([low, high, low, high]))
    with pytest.raises(DataError, match="negatives has an entry beyond"):
        pooled([low, low])


def test_a_sum_that_no_integer_holds_is_refused() -> None:
    most = NoisyHistogram.from_arrays({**GOOD, "noise_variance": np.array([2**61])})
    for many in (4, 8, 16):
        with pytest.raises(DataError, match=r"is no variance|beyond what"):
            pooled([most] * many)


def test_pooling() -> None:
    logits, targets = binormal(np.random.default_rng(1), 5, 20)
    parts = [noised(logits, targets, 1.0, SeededNoise(i)) for i in range(3)]
    exact = ScoreHistogram.from_scores([0.2, 0.8], [0, 1], ["a", "b"])
    whole = pooled(parts)
    assert isinstance(whole, NoisyHistogram)
    assert same(whole, parts[0] + parts[1] + parts[2])
    assert pooled([exact]).to_lists() == exact.to_lists()
    assert pooled([]).to_lists() == ScoreHistogram.empty().to_lists()
    with pytest.raises(DataError, match="different score bins"):
        pooled([*parts, noised(logits, targets, 1.0, edges=edges_around(1.0, 1.0))])
    with pytest.raises(DataError, match="1 of 2 score histograms have noise"):
        pooled([parts[0], exact])


def test_one_after_another_is_all_at_once() -> None:
    logits, targets = binormal(np.random.default_rng(2), 5, 20)
    noisy: list[Histogram] = [noised(logits + i, targets, 1.0, SeededNoise(i)) for i in range(4)]
    exact: list[Histogram] = [
        ScoreHistogram.from_scores(np.tanh(logits * i) / 2 + 0.5, targets, [f"{i}-{n}" for n in range(len(targets))])
        for i in range(1, 5)
    ]
    assert plus(None, None) is None
    for histograms in (noisy, exact):
        for order in (histograms, histograms[::-1]):
            total = plus(None, None)
            for histogram in order:
                total = plus(plus(total, histogram), None)
            assert total is not None
            assert total.to_lists() == pooled(histograms).to_lists()
    with pytest.raises(DataError, match="1 of 2 score histograms have noise"):
        plus(noisy[0], exact[0])


def test_histograms_of_0_1_stay_readable() -> None:
    """Theirs had 96 bins that were the same for all, and said nothing of them."""
    rng = np.random.default_rng(0)
    counts = {name: rng.integers(0, 50, 96) for name in ("positives", "negatives")}
    old = {name: (WEIGHTS[name][:96, :96] @ (counts[name] * 5040)).tolist() for name in counts}
    h = histogram_from_lists({**old, "noise_variance": [2**30]})
    assert isinstance(h, NoisyHistogram)
    assert np.array_equal(h.edges, np.arange(-47, 48) / 6)
    for name, expected in counts.items():
        assert np.allclose(h.counts(name), expected)
        assert h.noise(name).shape == (96, 96)
    assert same(histogram_from_lists(json.loads(json.dumps(h.to_lists()))), h)
    metrics = noisy_metrics(h)
    assert metrics.images == pytest.approx(sum(int(one.sum()) for one in counts.values()), rel=0.01)
    assert metrics.auroc.value == pytest.approx(0.5, abs=0.05)
