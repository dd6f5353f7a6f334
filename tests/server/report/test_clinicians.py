"""Published figures of doctors beside the model's, and no claim."""

from collections.abc import Iterator

import numpy as np
import pytest

from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy import metrics_of
from melfed.server.report import charts
from melfed.server.report.clinicians import CAPTION, clinicians_figure
from melfed.server.report.words import spoken
from tests.server.fake_run import scores


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with charts.settings():
        yield


def test_the_model_stands_beside_published_figures() -> None:
    metrics = metrics_of(scores(np.random.default_rng(0), 900, 0.2, skill=1.5))
    found = clinicians_figure(metrics, synthetic=False)
    for words in (spoken(metrics.auroc), "0.83 ± 0.03", "0.91 ± 0.02", "different patients and pictures"):
        assert words in str(found.image)
    assert found.caption == CAPTION


def test_the_caption_lets_nobody_claim_anything() -> None:
    for words in ("No comparison", "other patients", "Overlap does not mean as good", "has not been tried"):
        assert words in CAPTION
    for claim in ("outperform", "as good as a", "better than", "dermatologist-level", "expert-level", "diagnos"):
        assert claim not in CAPTION


def test_of_synthetic_images_or_without_a_value_there_is_none() -> None:
    metrics = metrics_of(scores(np.random.default_rng(0), 900, 0.2, skill=1.5))
    assert clinicians_figure(metrics, synthetic=True).image is None
    none = metrics_of(ScoreHistogram.empty())
    assert clinicians_figure(none, synthetic=False).caption == "no test image was evaluated"
