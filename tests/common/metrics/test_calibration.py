"""Brier score, calibration slope and curve, of exact and of noised histograms."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from melfed.common.metrics.calibration import calibrated_curve, calibration_metrics
from melfed.common.metrics.calibration_map import Calibration
from melfed.common.metrics.histogram import ScoreHistogram, sigmoid
from melfed.common.metrics.intervals import UNDEFINED
from tests.common.metrics.normal_scores import exact, noised, scores


def test_exact_figures_are_those_of_scikit_learn_before_and_after_a_map() -> None:
    x, y = scores(100, 500)
    x = 0.5 * x + 0.5
    map_ = Calibration(slope=2.0, intercept=-1.0)
    for found, logits in ((calibration_metrics(exact(x, y)), x), (calibration_metrics(exact(x, y), map_), 2 * x - 1)):
        assert found.brier.value == pytest.approx(brier_score_loss(y, sigmoid(logits)))
        oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(logits[:, None], y)
        assert found.slope.value == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
        assert found.in_the_large.value is not None
        shifted = sigmoid(logits + found.in_the_large.value)
        assert shifted.sum() == pytest.approx(y.sum()), "as many are expected as there are"


def test_the_error_is_told_of_calibrated_scores_and_of_others() -> None:
    x, y = scores(1000, 5000)
    for h in (exact(x, y), noised(x, y, 4.0)):
        assert calibration_metrics(h).calibration_error.low == 0
        off = calibration_metrics(h, Calibration(slope=1.0, intercept=1.0)).calibration_error
        assert off.low is not None
        assert off.low > 0.05


def test_more_images_than_bins_still_hold_the_brier_score() -> None:
    x, y = scores(3000, 6000)
    h = ScoreHistogram.from_scores(x, y, [str(i) for i in range(len(x))], most=32)
    found, true = calibration_metrics(h).brier, brier_score_loss(y, sigmoid(x))
    assert found.low is not None
    assert found.high is not None
    assert found.low < true < found.high


def test_noised_figures_hold_the_truth_and_are_wider() -> None:
    x, y = scores(1000, 5000)
    known, found = calibration_metrics(exact(x, y)), calibration_metrics(noised(x, y, 4.0))
    for name in ("brier", "slope", "in_the_large"):
        sure, noisy = getattr(known, name), getattr(found, name)
        assert noisy.low < sure.value < noisy.high
        assert noisy.high - noisy.low > sure.high - sure.low
    assert found.melanomas_needed is None or found.melanomas_needed > 1000


def test_undefined_only_where_a_class_is_absent_or_hidden_with_what_would_be_needed() -> None:
    hidden = calibration_metrics(noised(*scores(20, 400), 8.0))
    assert (hidden.brier, hidden.slope, hidden.in_the_large, hidden.calibration_error) == (UNDEFINED,) * 4
    assert hidden.melanomas_needed is not None
    assert hidden.melanomas_needed > 20
    alone = calibration_metrics(exact(np.array([0.0, 1.0]), np.array([0.0, 0.0])))
    assert alone.brier.value == pytest.approx((0.25 + float(sigmoid(1.0)) ** 2) / 2)
    assert alone.slope == UNDEFINED
    assert alone.melanomas_needed is None
    separated = calibration_metrics(exact(np.array([-1.0, 1.0]), np.array([0.0, 1.0])))
    assert separated.slope == UNDEFINED
    assert separated.brier.value is not None
    assert calibration_metrics(ScoreHistogram.empty()).brier == UNDEFINED


def test_few_melanomas_are_told_how_many_a_slope_takes() -> None:
    found = calibration_metrics(exact(*scores(20, 80)))
    assert found.melanomas_needed is not None
    assert found.melanomas_needed > 20


def test_a_curve_has_every_image_once_and_lies_on_the_diagonal_where_the_scores_are_calibrated() -> None:
    x, y = scores(1000, 5000)
    curve = calibrated_curve(exact(x, y))
    assert len(curve.counts) == 10
    assert curve.counts.sum() == 6000
    assert (np.diff(curve.mean_predicted) > 0).all()
    assert ((curve.low <= curve.mean_predicted) & (curve.mean_predicted <= curve.high)).mean() >= 0.8
    noisy = calibrated_curve(noised(x, y, 4.0))
    assert len(noisy.counts) == 5
    assert noisy.counts.sum() == pytest.approx(6000, rel=0.1)
    assert ((noisy.low <= noisy.mean_predicted) & (noisy.mean_predicted <= noisy.high)).mean() >= 0.8
    assert not len(calibrated_curve(ScoreHistogram.empty()).counts)


@pytest.mark.parametrize("sigma", [None, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("positives", "negatives"), [(9, 13), (30, 300), (250, 250)])
def test_scores_that_lie_together_or_far_apart_have_figures_and_a_curve(
    sigma: float | None, spread: float, positives: int, negatives: int
) -> None:
    """As a network's that has hardly learnt: most bins have no image, and no group of them may be empty."""
    x, y = scores(positives, negatives, 4)
    h = exact(spread * x, y) if sigma is None else noised(spread * x, y, sigma, 4)
    found, curve = calibration_metrics(h), calibrated_curve(h)
    assert (found.calibration_error.value is None) == (not len(curve.counts))
    assert np.isfinite([curve.mean_predicted, curve.observed, curve.low, curve.high]).all()
    assert (curve.counts > 0).all()
