"""Counts with their uncertainty: what is linear in noised counts is unbiased, and varies as it is said to."""

import numpy as np
import pytest

from melfed.common.metrics.class_counts import Uncertain, class_counts, melanomas_to_show
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy import units_needed
from tests.common.metrics.normal_scores import exact, noised, scores


def test_exact_counts_are_in_the_order_of_the_scores_and_vary_by_sampling_alone() -> None:
    h = ScoreHistogram.from_scores([2.0, -1.0, 0.5, 0.5], [1, 0, 1, 0], ["a", "b", "c", "c"])
    counts = class_counts(h)
    assert counts is not None
    assert counts.places.ravel().tolist() == [-1.0, 0.5, 2.0]
    assert (counts.negatives.tolist(), counts.positives.tolist()) == ([1, 1, 0], [0, 1, 1])
    ones = np.ones((3, 1))
    sampling, noise = counts.covariance(0 * ones, ones)
    assert (sampling.item(), noise.item()) == (2.0, 0.0)


def test_images_of_one_patient_count_as_one() -> None:
    h = ScoreHistogram.from_scores([1.0, 1.1, 1.2, -1.0], [1, 1, 1, 0], ["a", "a", "a", "b"])
    counts = class_counts(h)
    assert counts is not None
    sampling, _ = counts.covariance(np.zeros((4, 1)), np.ones((4, 1)))
    assert sampling.item() == pytest.approx(9), "three images that are one: its variance is 3²"


@pytest.mark.parametrize("targets", [[0, 0], [1, 1]])
def test_one_class_alone_gives_nothing(targets: list[int]) -> None:
    assert class_counts(ScoreHistogram.from_scores([0.0, 1.0], targets, ["a", "b"])) is None


def test_noise_that_hides_a_class_gives_nothing_and_says_how_many_would_show() -> None:
    h = noised(*scores(20, 400), sigma=8.0)
    assert class_counts(h) is None
    assert melanomas_to_show(h) == units_needed(8.0, 1) > 20
    assert melanomas_to_show(exact(*scores(5, 5))) == 1


def test_the_variance_of_the_noise_is_that_of_repeated_releases() -> None:
    x, y = scores(400, 2000)
    values, said = [], []
    for seed in range(60):
        counts = class_counts(noised(x, y, 3.0, seed))
        assert counts is not None
        above = (counts.low >= 0).astype(np.float64)[:, None]
        values.append(float(counts.positives @ above[:, 0]))
        said.append(float(counts.covariance(0 * above, above)[1].item()) ** 0.5)
    true = float((x[y == 1] >= 0).sum())
    assert abs(np.mean(values) - true) < 3 * np.std(values) / 60**0.5, "unbiased"
    assert np.mean(said) == pytest.approx(np.std(values), rel=0.3)


def test_how_many_are_needed_follows_from_both_variances() -> None:
    # Sampling alone: half the width takes four times as many; noise alone: twice as many.
    half = 1.959964 * 0.1
    assert Uncertain(0.5, 0.01, 0.0).needed(half / 2, 100) == pytest.approx(400, abs=1)
    assert Uncertain(0.5, 0.0, 0.01).needed(half / 2, 100) == pytest.approx(200, abs=1)


def test_limits_stay_between_0_and_1_and_hold_the_value() -> None:
    for value, noise in ((1.2, 0.01), (-0.1, 0.01), (0.0, 0.0), (1.0, 0.0), (0.5, 0.04)):
        found = Uncertain(value, 0.001, noise).proportion()
        assert found.low is not None
        assert found.value is not None
        assert found.high is not None
        assert 0 <= found.low <= found.value <= found.high <= 1
