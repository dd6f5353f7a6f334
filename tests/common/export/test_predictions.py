"""A model's word on single pictures, calibrated where there is a map."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.errors import RunError
from melfed.common.export.facts import Calibration
from melfed.common.export.predictions import predictions
from melfed.common.metrics.histogram import sigmoid
from tests.common.export.models import SIZE, logits, network, pictures, statistics


def test_a_picture_has_a_score_and_what_is_none_a_reason(tmp_path: Path) -> None:
    model, (picture,) = network(), pictures(1)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    good, bad, missing = predictions(model, SIZE, files)
    (logit,) = logits(model, picture[None])
    assert good.logit == pytest.approx(logit)
    assert good.probability == pytest.approx(float(sigmoid(logit)))
    assert (bad.probability, missing.probability) == (None, None)
    assert "no readable image" in str(bad.problem)
    assert "cannot be read" in str(missing.problem)
    (calibrated,) = predictions(model, SIZE, files[:1], Calibration(slope=2.0, intercept=1.0))
    unsure = Calibration(slope=2.0, intercept=1.0, covariance=((0.1, 0.0), (0.0, 0.1)))
    (between,) = predictions(model, SIZE, files[:1], unsure)
    assert (calibrated.low, calibrated.high) == (None, None)
    assert between.low < calibrated.probability == between.probability < between.high
    assert calibrated.probability == pytest.approx(float(sigmoid(2 * logit + 1)))


def test_a_score_says_how_unlike_a_picture_is(tmp_path: Path) -> None:
    model = network()
    seen = statistics(model, pictures(60))
    Image.fromarray(pictures(1, seed=3)[0]).save(tmp_path / "a.png")
    noise = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE, 3), dtype=np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "b.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    like, unlike = predictions(model, SIZE, files, seen=seen)
    assert like.unlike is not None
    assert unlike.unlike is not None
    assert like.unlike < 1 < unlike.unlike
    assert [found.unlike for found in predictions(model, SIZE, files)] == [None, None]


def test_a_model_that_needs_more_than_a_picture_says_so() -> None:
    with pytest.raises(RunError, match="needs age, sex and site"):
        list(predictions(network(metadata=True), SIZE, []))
