"""An exported graph in 8-bit whole numbers: static quantisation, whose ranges follow from public images.

What stands behind the feature maps stays in single precision: pooled features are of very different sizes, and a neck
that whitens them makes much of small differences between them, smaller than a step of 8 bits. So do the first two
convolutions, whose few weights decide over all that comes after them. Neither costs much time or space.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from melfed.common.data.images.decoder import Pixels
from melfed.common.errors import RunError
from melfed.common.export.onnx_graph import MISSING, OWN, write_onnx
from melfed.common.export.public_images import public_images

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

MOST_IMAGES: Final = 128
"""So many are looked at; ranges hardly change with more."""
KINDS: Final = ["Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Mul", "Clip"]
"""Operators that become 8-bit, where their inputs are the network's."""
MOST_WEIGHTS: Final = 1_000_000
"""Of a layer behind the feature maps that stays in single precision: larger are VGG's alone, most of its size."""


@dataclass(frozen=True, slots=True)
class EightBits:
    """How a network is quantised; the defaults were the best of those that docs/measured.md tells of.

    Attributes:
        ends: whether what stands behind the feature maps becomes 8-bit as well.
        first: so many convolutions at the beginning stay in single precision.
        percentile: of an activation's values, at which its range ends; None: at the largest that was seen.
        channels: whether each channel's weights have a range of their own.
        symmetric: whether ranges of activations are as wide below zero as above.
    """

    ends: bool = False
    first: int = 2
    percentile: float | None = None
    channels: bool = True
    symmetric: bool = False


def calibration_images(folder: Path, size: int) -> list[Pixels]:
    """Return the images of a folder that ranges follow from; see `melfed.common.export.public_images`."""
    return public_images(folder, size, MOST_IMAGES, "calibrate 8-bit numbers with")


def quantised(proto: "ModelProto", images: Sequence[Pixels], how: EightBits | None = None) -> "ModelProto":
    """Return a graph whose feature maps are computed in 8 bits; the other nodes stay as they are.

    Args:
        proto: of `melfed.common.export.onnx_graph.onnx_model`, folded, with a picture as its only input.
        images: public ones, uint8 (size, size, 3).
        how: it is done; None: by the defaults.

    Raises:
        RunError: what quantises is not installed, or the model needs more than a picture.
    """
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise RunError(MISSING) from None
    if len(proto.graph.input) > 1:
        raise RunError("--int8: the model needs age, sex and site, which images do not carry; export it without --int8")

    how = how or EightBits()

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # of a library without types
        """Gives one image after the other."""

        def __init__(self) -> None:
            self.left: Iterator[Pixels] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next input; None after the last."""
            image = next(self.left, None)
            return None if image is None else {"image": np.ascontiguousarray(image)}

    with tempfile.TemporaryDirectory() as folder:
        whole, folded, small = (Path(folder, f"{name}.onnx") for name in ("whole", "folded", "small"))
        write_onnx(whole, proto)
        # Folds normalisation into the convolutions before it, so that both are one 8-bit operation.
        quant_pre_process(str(whole), str(folded), skip_symbolic_shape=True)
        method = CalibrationMethod.MinMax
        more: dict[str, Any] = {"ActivationSymmetric": how.symmetric}
        if how.percentile is not None:
            method, more["CalibPercentile"] = CalibrationMethod.Percentile, how.percentile
        with redirect_stdout(StringIO()):  # what it prints of percentiles is no answer of a command
            quantize_static(
                str(folded),
                str(small),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=KINDS,
                per_channel=how.channels,
                activation_type=QuantType.QInt8 if how.symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(kept(onnx.load_model(folded).graph, how)),
                calibrate_method=method,
                extra_options=more,
            )
        result: ModelProto = onnx.load_model(small)
    del result.metadata_props[:]
    for each in proto.metadata_props:
        result.metadata_props.add(key=each.key, value=each.value)
    result.metadata_props.add(key="quantised", value=f"8 bits, ranges from {len(images)} public images")
    return result


def kept(graph: "GraphProto", how: EightBits) -> set[str]:
    """Return names of the nodes that stay in single precision.

    Args:
        graph: of one picture, with the shapes of its tensors stated.
        how: it is quantised.
    """
    network = [node for node in graph.node if not node.name.startswith(OWN)]
    found = {node.name for node in graph.node if node.name.startswith(OWN)}
    convolutions = [place for place, node in enumerate(network) if node.op_type == "Conv"]
    if how.first and len(convolutions) > how.first:
        found |= {node.name for node in network[: convolutions[how.first]]}
    return found if how.ends else found | _behind_the_maps(graph)


def _behind_the_maps(graph: "GraphProto") -> set[str]:
    """Return names of the nodes between the last maps of more than one position and what the network gives."""
    maker = {output: node for node in graph.node for output in node.output}
    shapes = {value.name: [each.dim_value for each in value.type.tensor_type.shape.dim] for value in graph.value_info}
    weights = {each.name: prod(each.dims) for each in graph.initializer}
    left = [name for node in graph.node if node.name.startswith(OWN) for name in node.input]
    found: set[str] = set()
    while left:
        name = left.pop()
        node = maker.get(name)
        if node is None or node.name in found or node.name.startswith(OWN):
            continue
        a_map = node.op_type == "Conv" or any(side != 1 for side in shapes[name][2:])
        if not a_map and all(weights.get(each, 0) <= MOST_WEIGHTS for each in node.input):
            found.add(node.name)
            left.extend(node.input)
    return found
