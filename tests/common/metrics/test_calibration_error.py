"""The calibration error is unbiased in its square, and its interval holds the truth, with noise and without."""

import numpy as np
import pytest

from melfed.common.metrics.calibration_error import calibration_error
from melfed.common.metrics.class_counts import ClassCounts, class_counts
from melfed.common.metrics.histogram import ScoreHistogram, sigmoid
from melfed.common.metrics.intervals import FloatArray, Interval
from melfed.common.metrics.noisy_histogram import Histogram
from tests.common.metrics.normal_scores import exact, noised, scores

CUTS = (-3.0, -1.5, 0.0)
"""Logits between the groups."""


def members_of(counts: ClassCounts) -> FloatArray:
    group = np.searchsorted(CUTS, counts.places.mean(axis=1))
    return (group[:, None] == np.arange(len(CUTS) + 1)).astype(np.float64)


def found(h: Histogram, slope: float = 1.0, shift: float = 0.0) -> Interval:
    counts = class_counts(h)
    assert counts is not None
    return calibration_error(counts, lambda x: sigmoid(slope * x + shift), members_of(counts))


def truth(slope: float, shift: float) -> float:
    """The root mean square gap of the same groups, of so many images that chance has no part in it."""
    x, y = scores(200_000, 1_000_000, 99)
    group = np.searchsorted(CUTS, x)
    gaps, sizes = (np.bincount(group, each) for each in (sigmoid(slope * x + shift) - y, np.ones_like(x)))
    return float(np.sqrt((gaps**2 / sizes).sum() / sizes.sum()))


def test_of_exact_counts_it_is_the_gap_less_what_chance_makes_of_none() -> None:
    n, p = 400, 0.25
    melanomas = 140  # 0.35 of them
    x = np.full(n, float(np.log(p / (1 - p))))
    h = exact(x, np.arange(n) < melanomas)
    counts = class_counts(h)
    assert counts is not None
    one = calibration_error(counts, sigmoid, np.ones((len(counts.low), 1)))
    share = melanomas / n
    assert one.value == pytest.approx(np.sqrt((share - p) ** 2 - share * (1 - share) / n))
    assert one.low is not None
    assert one.high is not None
    assert one.low == pytest.approx(0.1 - 1.96 * np.sqrt(share * (1 - share) / n), abs=0.005)
    assert one.high == pytest.approx(0.1 + 1.96 * np.sqrt(share * (1 - share) / n), abs=0.005)


@pytest.mark.parametrize("sigma", [0.0, 4.0])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (1.0, 0.8), (2.0, 0.0)])
def test_the_interval_holds_the_truth(sigma: float, slope: float, shift: float) -> None:
    true, held, squares, plain = truth(slope, shift), 0, [], []
    trials = 40
    for seed in range(trials):
        x, y = scores(250, 1250, seed)
        h = noised(x, y, sigma, seed) if sigma else exact(x, y)
        one = found(h, slope, shift)
        assert one.value is not None
        assert one.low is not None
        assert one.high is not None
        held += one.low <= true <= one.high
        squares.append(one.value**2)
        plain.append(one.high - one.low)
    assert held >= 0.875 * trials  # of 40, 35 or more are held in 0.97 of all cases where the interval is right
    assert np.sqrt(np.mean(squares)) == pytest.approx(true, abs=0.25 * float(np.mean(plain)))


def test_noise_widens_it_and_calibrated_scores_reach_down_to_none() -> None:
    x, y = scores(250, 1250, 3)
    sure, noisy = found(exact(x, y)), found(noised(x, y, 8.0, 3))
    assert sure.low == noisy.low == 0
    assert noisy.high is not None
    assert sure.high is not None
    assert noisy.high > sure.high > 0


def test_bins_that_many_images_share_widen_it_by_what_their_order_may_shift() -> None:
    x, y = scores(3000, 6000, 1)
    fine = found(exact(x, y), 2.0)
    coarse = found(ScoreHistogram.from_scores(x, y, [str(i) for i in range(len(x))], most=16), 2.0)
    assert coarse.low is not None
    assert coarse.high is not None
    assert fine.value is not None
    assert coarse.low < fine.value < coarse.high
    assert coarse.high - coarse.low > fine.high - fine.low
