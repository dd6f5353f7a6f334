"""Eight bits: smaller, near the whole graph, and calibrated on what is usable in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from melfed.common.data.augmentation import to_input
from melfed.common.errors import DataError, RunError
from melfed.common.export.onnx_graph import OWN, onnx_model
from melfed.common.export.quantise import MOST_IMAGES, MOST_WEIGHTS, EightBits, calibration_images, kept, quantised
from melfed.common.export.scorer import OnnxScorer
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier
from melfed.common.model.neck import whitening
from tests.common.export.models import SIZE, facts_of, network, pictures

if TYPE_CHECKING:
    import onnx

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


def whitened() -> Classifier:
    """A network whose neck makes as much of small differences between its features as of large ones."""
    model = network("squeezenet1_1", neck=16)
    assert model.neck is not None
    images = np.stack(list(pictures(64, 64, 64, seed=5)))
    spec = backbone_spec(model.backbone)
    with torch.no_grad():
        pooled = model.eval().pooled(to_input(images, spec.mean, spec.std, None)).numpy()
        mean, projection = whitening(pooled, 16)
        model.neck.mean.copy_(torch.from_numpy(mean))
        model.neck.projection.copy_(torch.from_numpy(projection))
    return model


def agreement(model: Classifier, how: EightBits | None) -> float:
    """Correlation of the logits in 8 bits with those in single precision."""
    graphs = (
        onnx_model(model, facts_of(model, 64)),
        quantised(onnx_model(model, facts_of(model, 64), folded=True), list(pictures(24, 64, 64)), how),
    )
    one, other = (OnnxScorer(proto.SerializeToString()) for proto in graphs)
    logits = [[graph.score(image)[1] for image in pictures(24, 64, 64, seed=9)] for graph in (one, other)]
    return float(np.corrcoef(logits)[0, 1])


def test_a_neck_that_whitens_is_near_in_eight_bits() -> None:
    model = whitened()
    assert agreement(model, None) > 0.95
    assert agreement(model, EightBits(ends=True, first=0)) < 0.8


@pytest.mark.parametrize(
    "how", [EightBits(percentile=99.99), EightBits(channels=False), EightBits(symmetric=True), EightBits(first=3)]
)
def test_other_ways_are_near_too_and_give_another_graph(how: EightBits, capsys: pytest.CaptureFixture[str]) -> None:
    model = network("squeezenet1_1")
    proto, images = onnx_model(model, facts_of(model), folded=True), list(pictures(8))
    assert quantised(proto, images, how).SerializeToString() != quantised(proto, images).SerializeToString()
    assert agreement(model, how) > 0.8
    assert capsys.readouterr().out == ""


def graph_of(large: int) -> "onnx.GraphProto":
    """Three convolutions, a layer with many weights and one with few, as a graph has them."""
    from onnx import TensorProto, helper

    kinds = ("Mul", "Conv", "Relu", "Conv", "Conv", "ReduceMean", "Gemm", "Relu", "Gemm")
    shapes = ([[1, 3, 8, 8]] * 4) + [[1, 3, 1, 1], [1, 3], [1, large], [1, large], [1, 1]]
    nodes = [helper.make_node(kind, [f"t{n}", f"w{n}"], [f"t{n + 1}"], name=f"n{n}") for n, kind in enumerate(kinds)]
    nodes[0].input[0] = f"{OWN}pixels"
    nodes.append(helper.make_node("Identity", ["t9"], ["logit"], name=f"{OWN}logit"))
    stated = [helper.make_tensor_value_info(f"t{n + 1}", TensorProto.FLOAT, s) for n, s in enumerate(shapes)]
    weights = [helper.make_tensor(f"w{n}", TensorProto.FLOAT, [0, k], []) for n, k in ((6, 3 * large), (8, large))]
    for each in weights:
        each.dims[0] = 1
    return helper.make_graph(nodes, "g", [], [], weights, value_info=stated)


def test_the_ends_stay_in_single_precision_and_the_largest_layers_do_not() -> None:
    pytest.importorskip("onnx")
    end, start = {f"{OWN}logit"}, {"n0", "n1", "n2"}
    assert kept(graph_of(10), EightBits(ends=True, first=0)) == end
    assert kept(graph_of(10), EightBits(ends=True, first=1)) == end | start
    assert kept(graph_of(10), EightBits(ends=True)) == end | start | {"n3"}
    # The last convolution is of one position, and a convolution all the same.
    assert kept(graph_of(10), EightBits(first=0)) == end | {"n5", "n6", "n7", "n8"}
    assert kept(graph_of(MOST_WEIGHTS), EightBits(first=0)) == end | {"n7", "n8"}


def test_a_model_that_needs_more_than_a_picture_is_refused() -> None:
    model = network(metadata=True)
    with pytest.raises(RunError, match="needs age, sex and site"):
        quantised(onnx_model(model, facts_of(model)), list(pictures(1)))
