"""Eight bits: smaller, near the whole graph, and calibrated on what is usable in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.errors import DataError, RunError
from melfed.common.export.onnx_graph import onnx_model
from melfed.common.export.quantise import MOST_IMAGES, calibration_images, quantised
from melfed.common.export.scorer import OnnxScorer
from tests.common.export.models import SIZE, facts_of, network, pictures

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


def test_ranges_follow_from_a_bounded_part_of_a_folder(tmp_path: Path) -> None:
    for number in range(MOST_IMAGES + 2):
        Image.fromarray(np.full((16, 16, 3), number % 251, np.uint8)).save(tmp_path / f"{number:04}.png")
    assert len(calibration_images(tmp_path, SIZE)) == MOST_IMAGES // 2 + 1
    with pytest.raises(DataError, match="no usable images to calibrate"):
        calibration_images(tmp_path / "none", SIZE)


def test_it_is_smaller_and_near(tmp_path: Path) -> None:
    model = network("squeezenet1_1")
    whole = onnx_model(model, facts_of(model))
    small = quantised(onnx_model(model, facts_of(model), folded=True), list(pictures(16)))
    assert small.ByteSize() < 0.4 * whole.ByteSize()
    one, other = (OnnxScorer(proto.SerializeToString()) for proto in (whole, small))
    pairs = np.array([(one.score(image)[1], other.score(image)[1]) for image in pictures(12, 60, 50, seed=9)])
    assert 0 < np.abs(pairs[:, 0] - pairs[:, 1]).max() < np.ptp(pairs[:, 0])
    assert other.facts == one.facts
    assert other.told["quantised"] == "8 bits, ranges from 16 public images"


def test_a_model_that_needs_more_than_a_picture_is_refused() -> None:
    model = network(metadata=True)
    with pytest.raises(RunError, match="needs age, sex and site"):
        quantised(onnx_model(model, facts_of(model)), list(pictures(1)))
