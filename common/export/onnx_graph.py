"""A classifier as one ONNX graph: from an RGB picture of any size to a probability, and to the logit behind it.

Inputs: `image`, uint8 (height, width, 3), upright, sRGB; where the model needs age, sex and site, `metadata` as well,
float32 (1, features), as `melfed.common.data.metadata.encode_metadata` makes it. Outputs: `probability` and `logit`,
float32 (1,), and, where the facts have statistics of what the model has seen, `unlike`, float32 (1,), above 1 where the
picture is unlike all of that. The graph cuts the centre square out, brings it to the network's size by an antialiased
cubic filter, and normalises. ONNX has no Lanczos filter, by which images are resized for training; `docs/model.md` has
what that changes.
"""

import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from melfed.common.errors import RunError
from melfed.common.export.facts import ModelFacts
from melfed.common.export.out_of_distribution import FeatureStatistics
from melfed.common.files import atomic_write
from melfed.common.model.classifier import Classifier

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OPSET: Final = 18
"""The first version of ONNX's operators whose Resize has an antialias filter."""
CUBIC: Final = -0.5
"""Coefficient of the cubic filter, as in Pillow."""
OWN: Final = "melfed."
"""How the names of what stands before and behind the network begin."""
MISSING: Final = "ONNX is not installed here; pip install 'melfed[export]'"


def onnx_model(model: Classifier, facts: ModelFacts, *, folded: bool = False) -> "ModelProto":
    """Return the graph.

    Args:
        model: the trained classifier; it is left on the CPU, in evaluation.
        facts: become the metadata; the graph gives the calibrated probability where they have a calibration.
        folded: whether torch folds what is constant, as `melfed.common.export.quantise` needs it; it rounds by that,
            and a logit behind a neck was off by 7e-4.

    Raises:
        RunError: what writes ONNX is not installed.
    """
    proto = _network(model, facts.image_size, folded, facts.seen is not None)
    graph = proto.graph
    logits, *features = [output.name for output in graph.output]
    before, after = _before(), [*_after(logits, facts), *(node for name in features for node in _distance(name))]
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *network, *after])
    _constants(graph, facts)
    _ends(graph, facts.seen is not None)
    for name, text in facts.described().items():
        proto.metadata_props.add(key=name, value=text)
    proto.producer_name, proto.doc_string, graph.name = "melfed", facts.intended_use, "melfed"
    import onnx

    onnx.checker.check_model(proto)
    return proto


def write_onnx(path: Path, proto: "ModelProto") -> None:
    """Write a graph as one file. Raises StorageError."""
    with atomic_write(path, 0o644) as file:
        file.write(proto.SerializeToString())


def _network(model: Classifier, size: int, folded: bool, features: bool) -> "ModelProto":
    """Return the graph of the network alone, from `melfed.pixels` (and `metadata`) to logits (and features)."""
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it, and would say so in many lines)
    except ImportError:
        raise RunError(MISSING) from None
    import torch

    from melfed.common.export.network import ExportNetwork, example

    network = ExportNetwork(model, features=features)
    names = [f"{OWN}pixels", *(["metadata"] if model.metadata is not None else [])]
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            example(network, size),
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[f"{OWN}logits", f"{OWN}features"][: 1 + features],
            optimize=folded,
            verbose=False,
        )
    assert program is not None  # noqa: S101 (it is None where a file is written)
    content = io.BytesIO(program.model_proto.SerializeToString())
    return onnx.load_model(content)


class _quiet:  # noqa: N801 (used as a function is)
    """Silences loggers that tell a user nothing to act upon."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]
        self._levels = [logger.level for logger in self._loggers]

    def __enter__(self) -> None:
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> "NodeProto":
    """Return a node; names without a dot are the graph's own inputs and outputs."""
    from onnx import helper

    full = [name if not name or name == "image" else f"{OWN}{name}" for name in inputs]
    named: NodeProto = helper.make_node(kind, full, [f"{OWN}{output}"], name=f"{OWN}{output}", **attributes)
    return named


def _before() -> list["NodeProto"]:
    """Return what makes the network's input of a picture: its centre square, resized."""
    return [
        _node("Shape", ["image"], "shape"),
        _node("Slice", ["shape", "zero", "two"], "sides"),
        _node("ReduceMin", ["sides"], "side", keepdims=1),
        _node("Sub", ["sides", "side"], "spare"),
        _node("Div", ["spare", "two"], "start"),
        _node("Add", ["start", "side"], "end"),
        _node("Slice", ["image", "start", "end", "axes"], "square"),
        _node("Transpose", ["square"], "planes", perm=[2, 0, 1]),
        _node("Unsqueeze", ["planes", "zero"], "batch"),
        _node("Cast", ["batch"], "floats", to=1),
        _node(
            "Resize",
            ["floats", "", "", "size"],
            "resized",
            mode="cubic",
            antialias=1,
            cubic_coeff_a=CUBIC,
            coordinate_transformation_mode="half_pixel",
        ),
        # As the pixels were that the network has learnt from: whole numbers from 0 to 255.
        _node("Round", ["resized"], "whole"),
        _node("Clip", ["whole", "black", "white"], "pixels"),
    ]


def _after(logits: str, facts: ModelFacts) -> list["NodeProto"]:
    """Return what makes logit and probability of the network's output."""
    from onnx import helper

    nodes = [helper.make_node("Identity", [logits], ["logit"], name=f"{OWN}logit")]
    source = "logit"
    if facts.calibration is not None:
        nodes.append(helper.make_node("Mul", ["logit", f"{OWN}slope"], [f"{OWN}scaled"], name=f"{OWN}scaled"))
        shifted = f"{OWN}shifted"
        nodes.append(helper.make_node("Add", [f"{OWN}scaled", f"{OWN}intercept"], [shifted], name=shifted))
        source = shifted
        if facts.calibration.knots:
            nodes += [
                helper.make_node("Sub", ["logit", f"{OWN}knots"], [f"{OWN}above"], name=f"{OWN}above"),
                _node("Relu", ["above"], "beyond"),
                _node("Mul", ["beyond", "bends"], "parts"),
                _node("ReduceSum", ["parts", "zero"], "bent", keepdims=1),
                _node("Add", ["shifted", "bent"], "calibrated"),
            ]
            source = f"{OWN}calibrated"
    return [*nodes, helper.make_node("Sigmoid", [source], ["probability"], name=f"{OWN}probability")]


def _distance(features: str) -> list["NodeProto"]:
    """Return what `FeatureStatistics.scores` computes of the network's features."""
    from onnx import helper

    return [
        helper.make_node("Identity", [features], [f"{OWN}seen"], name=f"{OWN}seen"),
        _node("Sub", ["seen", "mean"], "centred"),
        _node("Div", ["centred", "scale"], "standard"),
        _node("MatMul", ["standard", "directions"], "along"),
        _node("Mul", ["along", "along"], "squares"),
        _node("Div", ["squares", "variances"], "weighed"),
        _node("ReduceSum", ["weighed", "one"], "inside", keepdims=0),
        _node("ReduceSumSquare", ["standard", "one"], "whole_length", keepdims=0),
        _node("ReduceSum", ["squares", "one"], "part", keepdims=0),
        _node("Sub", ["whole_length", "part"], "off"),
        _node("Relu", ["off"], "outside"),
        _node("Div", ["outside", "rest"], "others"),
        _node("Add", ["inside", "others"], "sum"),
        _node("Sqrt", ["sum"], "distance"),
        helper.make_node("Div", [f"{OWN}distance", f"{OWN}threshold"], ["unlike"], name=f"{OWN}unlike"),
    ]


def _constants(graph: "GraphProto", facts: ModelFacts) -> None:
    from onnx import numpy_helper

    size = facts.image_size
    values: dict[str, Any] = {
        "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64),
        "axes": np.array([0, 1], np.int64),
        "size": np.array([1, 3, size, size], np.int64),
        "black": np.array(0, np.float32),
        "white": np.array(255, np.float32),
    }
    if facts.calibration is not None:
        values["slope"] = np.array(facts.calibration.slope, np.float32)
        values["intercept"] = np.array(facts.calibration.intercept, np.float32)
        if facts.calibration.knots:
            values["knots"] = np.array(facts.calibration.knots, np.float32)
            values["bends"] = np.array(facts.calibration.bends, np.float32)
    if facts.seen is not None:
        values |= _statistics(facts.seen)
    graph.initializer.extend(numpy_helper.from_array(value, f"{OWN}{name}") for name, value in values.items())


def _statistics(seen: FeatureStatistics) -> dict[str, Any]:
    mean, scale, variances, rest, directions = seen.arrays()
    return {
        "one": np.array([1], np.int64),
        "mean": mean,
        "scale": scale,
        "directions": np.ascontiguousarray(directions.T),
        "variances": variances,
        "rest": rest,
        "threshold": np.array(seen.threshold * np.sqrt(seen.features), np.float32),
    }


def _ends(graph: "GraphProto", unlike: bool) -> None:
    """State the graph's own inputs and outputs in place of the network's."""
    from onnx import TensorProto, helper

    others = [value for value in graph.input if value.name != f"{OWN}pixels"]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    image.doc_string = "RGB, upright, sRGB"
    logit = helper.make_tensor_value_info("logit", TensorProto.FLOAT, [1])
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1])
    del graph.input[:], graph.output[:]
    graph.input.extend([image, *others])
    graph.output.extend([probability, logit])
    if unlike:
        graph.output.append(helper.make_tensor_value_info("unlike", TensorProto.FLOAT, [1]))
