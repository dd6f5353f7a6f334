"""The decision curve of the report."""

from collections.abc import Iterator

import numpy as np
import pytest

from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.net_benefit import THRESHOLDS, decision_curve
from melfed.common.metrics.noisy import metrics_of
from melfed.server.report import charts
from melfed.server.report.decision import decision_figure
from tests.server.fake_run import noised_scores, scores
from tests.server.report.reading import path_of


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with charts.settings():
        yield


def test_the_curve_lies_at_the_net_benefit() -> None:
    h = scores(np.random.default_rng(0), 2000, 0.2, skill=2.0)
    found = decision_figure(h, metrics_of(h))
    points = path_of(str(found.image))
    curve = decision_curve(h)
    assert len(points) == len(THRESHOLDS)
    heights = -points[:, 1]
    slope = np.polyfit(curve.model, heights, 1)
    np.testing.assert_allclose(np.polyval(slope, curve.model), heights, atol=0.05)
    assert slope[0] > 0
    assert f"at 10 %: {100 * curve.model[9]:.2f}" in str(found.image)
    assert "per 100 images" in found.caption
    assert "no treatment and no patient's outcome" in found.caption


def test_noised_histograms_have_one_of_units() -> None:
    h = noised_scores(np.random.default_rng(0), 3000, 0.2, skill=2.0)
    found = decision_figure(h, metrics_of(h), "patient")
    assert found.image is not None
    assert "per 100 patients" in found.caption


def test_without_melanomas_it_says_why_it_is_not_drawn() -> None:
    h = ScoreHistogram.from_scores([0.0, 1.0], [0, 0], "ab")
    found = decision_figure(h, metrics_of(h))
    assert (found.image, found.caption) == (None, "no melanoma in test")


def test_a_useless_model_stays_inside_its_chart() -> None:
    rng = np.random.default_rng(1)
    h = ScoreHistogram.from_scores(rng.normal(3, 1, 300), rng.integers(0, 2, 300) * (rng.random(300) < 0.1), range(300))
    found = decision_figure(h, metrics_of(h))
    points = path_of(str(found.image))
    assert (points[:, 1] <= charts.TOP + charts.PLOT - 100 + 0.01).all()
