"""Bins of logits: exact as long as there are few, of equal shares of both classes where there are many."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from melfed.common.metrics.score_bins import LARGEST, Bins, bins_of, condensed, known, merged

LOGITS = arrays(
    np.float64, st.integers(1, 30), elements=st.floats(-50, 50) | st.sampled_from([-np.inf, -0.0, 0.0, np.inf])
)


def inside(bins: Bins, logits: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> None:
    """Every image lies in a bin, on its side of 0, and bins are apart and in order."""
    assert (bins.positives.sum(), bins.negatives.sum()) == (positive.sum(), (~positive).sum())
    assert (bins.low <= bins.high).all()
    assert (bins.low[1:] > bins.high[:-1]).all()
    assert not ((bins.low < 0) & (bins.high >= 0)).any()
    for counts, values in ((bins.positives, logits[positive]), (bins.negatives, logits[~positive])):
        found = [((values >= low) & (values <= high)).sum() for low, high in zip(bins.low, bins.high, strict=True)]
        assert found == counts.tolist()


@settings(deadline=None, max_examples=25)
@given(logits=LOGITS, most=st.integers(2, 20), seed=st.integers(0, 99))
def test_every_image_is_in_the_bin_that_holds_its_logit(logits: npt.NDArray[np.float64], most: int, seed: int) -> None:
    positive = np.random.default_rng(seed).random(len(logits)) < 0.3
    bins = bins_of(logits, positive, most)
    assert len(bins.low) <= most
    inside(bins, known(logits), positive)


def test_few_logits_have_a_bin_each() -> None:
    bins = bins_of(np.array([2.0, -1.0, 2.0, 0.0]), np.array([True, False, False, True]), 3)
    assert bins.low.tolist() == bins.high.tolist() == [-1.0, 0.0, 2.0]
    assert (bins.positives.tolist(), bins.negatives.tolist()) == ([0, 1, 1], [1, 0, 1])


def test_many_logits_share_bins_of_about_as_much_of_both_classes() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(3000) < 1000
    bins = bins_of(rng.normal(positive * 2.0, 1.0), positive, 101)
    # 2 P / (bins - 1) and 2 N / (bins - 1), and the image with which a bin is full.
    assert bins.positives.max() <= 2 * 1000 / 100 + 1
    assert bins.negatives.max() <= 2 * 2000 / 100 + 1


@settings(deadline=None, max_examples=25)
@given(LOGITS)
def test_a_known_logit_is_known_again_and_within_46_digits(logits: npt.NDArray[np.float64]) -> None:
    found = known(logits)
    np.testing.assert_array_equal(known(found), found)
    bounded = np.clip(logits, -LARGEST, LARGEST)
    assert (np.abs(found - bounded) <= np.maximum(np.abs(bounded) * 2.0**-46, 1 / LARGEST)).all()


def test_the_largest_and_the_smallest_logits() -> None:
    tiny = 1 / LARGEST
    assert known(np.array([np.inf, -np.inf, tiny / 2, -tiny / 2])).tolist() == [LARGEST, -LARGEST, 0.0, -tiny]
    assert np.isnan(known(np.array([np.nan]))[0])


@settings(deadline=None, max_examples=25)
@given(logits=LOGITS, seed=st.integers(0, 99))
def test_merging_does_not_depend_on_the_order(logits: npt.NDArray[np.float64], seed: int) -> None:
    values = known(logits)
    ones = np.ones(len(values), np.int64)
    expected = bins_of(logits, np.ones(len(logits), np.bool_), 60)
    order = np.random.default_rng(seed).permutation(len(values))
    found = merged(values[order], values[order], ones, ones - 1)
    assert (found.low.tolist(), found.positives.tolist()) == (expected.low.tolist(), expected.positives.tolist())


@pytest.mark.parametrize("most", [2, 5, 7])
def test_condensing_keeps_the_images_and_the_side_of_0(most: int) -> None:
    values = np.arange(-10.0, 10.0)
    bins = condensed(Bins(values, values, np.ones(20, np.int64), np.arange(20)), most)
    assert len(bins.low) <= most
    assert (bins.positives.sum(), bins.negatives.sum()) == (20, 190)
    assert not ((bins.low < 0) & (bins.high >= 0)).any()
