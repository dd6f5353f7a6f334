"""Running an exported graph with ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from melfed.common.errors import RunError
from melfed.common.export.facts import ModelFacts, read_facts
from melfed.common.export.onnx_graph import MISSING


class OnnxScorer:
    """An exported graph on the CPU; its `facts` are those that it carries."""

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        """Load a graph: a file, or what would be in it.

        Raises:
            RunError: ONNX Runtime is not installed, or this is no graph that melfed has exported.
        """
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as kinds
        except ImportError:
            raise RunError(MISSING) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        where, content = ("the graph", model) if isinstance(model, bytes) else (str(model), str(model))
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except (
            kinds.Fail,
            kinds.InvalidArgument,
            kinds.InvalidGraph,
            kinds.InvalidProtobuf,
            kinds.NoSuchFile,
        ) as error:
            raise RunError(f"{where}: not a graph that ONNX Runtime can run: {str(error).splitlines()[0]}") from None
        told: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        if "melfed" not in told:
            raise RunError(f"{where}: not exported by melfed: it does not say what model it is")
        self.facts: ModelFacts = read_facts(told["melfed"], where)
        self.told = dict(told)

    def unlike(self, image: npt.NDArray[np.uint8]) -> float | None:
        """Return how unlike a picture is all that the model has seen, above 1: unlike; None where it cannot tell."""
        if self.facts.seen is None:
            return None
        (unlike,) = self._session.run(["unlike"], {"image": np.ascontiguousarray(image)})
        return float(unlike[0])

    def score(
        self, image: npt.NDArray[np.uint8], metadata: npt.NDArray[np.float32] | None = None
    ) -> tuple[float, float]:
        """Return probability and logit of a picture.

        Args:
            image: RGB, uint8 (height, width, 3), upright.
            metadata: float32 (1, METADATA_FEATURES), where the model needs it.
        """
        inputs: dict[str, Any] = {"image": np.ascontiguousarray(image)}
        if metadata is not None:
            inputs["metadata"] = metadata
        probability, logit = self._session.run(["probability", "logit"], inputs)
        return float(probability[0]), float(logit[0])
