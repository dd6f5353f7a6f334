"""Curves of the report: ends, size, bands, and agreement with the metrics."""

import numpy as np
import pytest
from sklearn.metrics import auc

from melfed.common.metrics.exact import calibration_curve, histogram_metrics, pr_curve, roc_curve
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import wilson
from tests.common.logits import logit


def scored(images: int = 3000, copies: int = 1) -> ScoreHistogram:
    rng = np.random.default_rng(1)
    y = rng.random(images) < 0.2
    x = rng.normal(size=images) + 1.5 * y - 1.5
    return ScoreHistogram.from_scores(x.repeat(copies), y.repeat(copies), np.arange(images).repeat(copies).tolist())


def test_roc_curve() -> None:
    h = scored()
    curve = roc_curve(h)
    assert 100 < len(curve.sensitivity) <= 200
    assert (curve.false_positive_rate[0], curve.sensitivity[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.sensitivity[-1]) == (1, 1)
    assert (np.diff(curve.false_positive_rate) >= 0).all()
    assert (np.diff(curve.sensitivity) >= 0).all()
    assert (curve.low <= curve.sensitivity).all()
    assert (curve.sensitivity <= curve.high).all()
    area = histogram_metrics(h).auroc.value
    assert auc(curve.false_positive_rate, curve.sensitivity) == pytest.approx(area, abs=0.002)


def test_pr_curve() -> None:
    h = scored()
    curve = pr_curve(h)
    assert 100 < len(curve.precision) <= 200
    assert curve.recall[-1] == 1
    assert (np.diff(curve.recall) >= 0).all()
    assert curve.precision[-1] == pytest.approx(h.positives.sum() / h.images)
    assert (curve.low <= curve.precision).all()
    assert (curve.precision <= curve.high).all()
    steps = np.diff(np.concatenate(([0.0], curve.recall)))
    assert float(steps @ curve.precision) == pytest.approx(histogram_metrics(h).auprc.value, abs=0.01)


def test_calibration_curve() -> None:
    h = ScoreHistogram.from_scores(logit([0.02, 0.04, 0.5, 0.51]), [0, 1, 1, 1], list("abcd"))
    curve = calibration_curve(h)
    assert curve.mean_predicted == pytest.approx([0.03, 0.505])
    assert curve.observed.tolist() == [0.5, 1.0]
    assert curve.counts.tolist() == [2, 2]
    low, high = wilson([0.5, 1.0], 2)
    assert curve.low == pytest.approx(low)
    assert curve.high == pytest.approx(high)


def test_bands_of_copied_images_are_those_of_the_originals() -> None:
    for curve in (roc_curve, pr_curve, calibration_curve):
        once, fivefold = curve(scored(300)), curve(scored(300, copies=5))
        assert fivefold.low == pytest.approx(once.low)
        assert fivefold.high == pytest.approx(once.high)


@pytest.mark.parametrize("targets", [[], [1, 1], [0]])
def test_one_class_has_no_curve(targets: list[int]) -> None:
    h = ScoreHistogram.from_scores([-0.4] * len(targets), targets, list(range(len(targets))))
    assert len(roc_curve(h).sensitivity) == len(pr_curve(h).precision) == 0
    assert len(calibration_curve(h).observed) == min(1, len(targets))
