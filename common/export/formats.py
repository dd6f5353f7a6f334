"""The formats in which a model leaves melfed."""

import json
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from melfed.common.errors import RunError
from melfed.common.export.facts import ModelFacts
from melfed.common.files import atomic_write
from melfed.common.model.classifier import Classifier
from melfed.common.tensors import save_tensors

Format = Literal["onnx", "torch-export", "safetensors"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
FACTS_FILE: Final = "melfed.json"
"""Name of the facts in a torch-export archive."""


def export(model: Classifier, facts: ModelFacts, kind: str, out: Path, int8: Path | None = None) -> None:
    """Write a model in one of `FORMATS`, with its facts.

    - `onnx`: `melfed.common.export.onnx_graph`.
    - `torch-export`: a program of PyTorch (`torch.export.load`) from pixels, float32 (n, 3, size, size), 0 to 255, to
      logits, float32 (n,); the facts are its extra file `melfed.json`.
    - `safetensors`: all tensors by the network's own names; the facts are in the header.

    Args:
        model: the trained classifier.
        facts: what is told of it.
        kind: the format.
        out: the file; it must not exist.
        int8: folder of public images, to compute in 8 bits (`onnx` alone).

    Raises:
        RunError: there is no such format, the file exists, or what writes it is not installed.
        DataError: no usable images in that folder.
        StorageError: the file cannot be written.
    """
    if kind not in FORMATS:
        raise RunError(f"--format {kind}: known are {', '.join(FORMATS)}")
    if int8 is not None and kind != "onnx":
        raise RunError(f"--int8 is for --format onnx, not {kind}")
    if out.exists():
        raise RunError(f"{out}: exists; name another --out")
    if kind == "safetensors":
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
        save_tensors(out, {name: np.ascontiguousarray(array) for name, array in tensors.items()}, facts.described())
    elif kind == "torch-export":
        _torch_export(model, facts, out)
    else:
        _onnx(model, facts, out, int8)


def _onnx(model: Classifier, facts: ModelFacts, out: Path, int8: Path | None) -> None:
    from melfed.common.export.onnx_graph import onnx_model, write_onnx
    from melfed.common.export.quantise import calibration_images, quantised

    images = None if int8 is None else calibration_images(int8, facts.image_size)
    proto = onnx_model(model, facts, folded=images is not None)
    write_onnx(out, proto if images is None else quantised(proto, images))


def _torch_export(model: Classifier, facts: ModelFacts, out: Path) -> None:
    import torch

    from melfed.common.export.network import ExportNetwork, example

    network = ExportNetwork(model)
    inputs = example(network, facts.image_size, n=2)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(network, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=False)
    with atomic_write(out, 0o644) as file:
        torch.export.save(program, file, extra_files={FACTS_FILE: json.dumps(facts.model_dump(mode="json"))})
