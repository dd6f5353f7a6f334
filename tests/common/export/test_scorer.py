"""What is no exported model is told in one line."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.export.onnx_graph import onnx_model
from melfed.common.export.scorer import OnnxScorer
from tests.common.export.models import facts_of, network

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


@pytest.mark.parametrize("content", [None, b"", b"no graph"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"not a graph that ONNX Runtime can run: [^\n]*$"):
        OnnxScorer(path)


def test_a_graph_of_somebody_else(tmp_path: Path) -> None:
    model = network()
    proto = onnx_model(model, facts_of(model))
    del proto.metadata_props[:]
    with pytest.raises(RunError, match="not exported by melfed"):
        OnnxScorer(proto.SerializeToString())
