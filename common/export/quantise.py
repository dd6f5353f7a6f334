"""An exported graph in 8-bit whole numbers: static quantisation, whose ranges follow from public images."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from melfed.common.data.images.decoder import Pixels
from melfed.common.errors import RunError
from melfed.common.export.onnx_graph import MISSING, OWN, write_onnx
from melfed.common.export.public_images import public_images

if TYPE_CHECKING:
    from onnx import ModelProto

MOST_IMAGES: Final = 128
"""So many are looked at; ranges hardly change with more."""
KINDS: Final = ["Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Mul", "Clip"]
"""Operators that become 8-bit, where their inputs are the network's."""


def calibration_images(folder: Path, size: int) -> list[Pixels]:
    """Return the images of a folder that ranges follow from; see `melfed.common.export.public_images`."""
    return public_images(folder, size, MOST_IMAGES, "calibrate 8-bit numbers with")


def quantised(proto: "ModelProto", images: Sequence[Pixels]) -> "ModelProto":
    """Return a graph whose network computes in 8 bits; resizing, normalising and the ends stay as they are.

    Args:
        proto: of `melfed.common.export.onnx_graph.onnx_model`, folded, with a picture as its only input.
        images: public ones, uint8 (size, size, 3).

    Raises:
        RunError: what quantises is not installed, or the model needs more than a picture.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise RunError(MISSING) from None
    if len(proto.graph.input) > 1:
        raise RunError("--int8: the model needs age, sex and site, which images do not carry; export it without --int8")

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
        inside = onnx.load_model(folded)
        quantize_static(
            str(folded),
            str(small),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=KINDS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in inside.graph.node if node.name.startswith(OWN)],
        )
        result: ModelProto = onnx.load_model(small)
    del result.metadata_props[:]
    for each in proto.metadata_props:
        result.metadata_props.add(key=each.key, value=each.value)
    result.metadata_props.add(key="quantised", value=f"8 bits, ranges from {len(images)} public images")
    return result
