"""The formats of an exported model, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.common.errors import RunError
from melfed.common.export.facts import read_facts
from melfed.common.export.formats import FACTS_FILE, export
from melfed.common.tensors import load_tensors
from tests.common.export.models import facts_of, logits, network, pictures


def test_safetensors_hold_every_tensor_and_the_facts(tmp_path: Path) -> None:
    model = network()
    facts, path = facts_of(model, run="ab"), tmp_path / "m.safetensors"
    export(model, facts, "safetensors", path)
    tensors, header = load_tensors(path, summed=True)
    assert tensors.keys() == model.state_dict().keys()
    assert all(np.array_equal(tensors[name], value.numpy()) for name, value in model.state_dict().items())
    assert read_facts(str(header["melfed"]), "it") == facts


def test_a_program_of_torch_takes_pixels_of_any_number_of_images(tmp_path: Path) -> None:
    model = network()
    facts, path = facts_of(model), tmp_path / "m.pt2"
    export(model, facts, "torch-export", path)
    files = {FACTS_FILE: ""}
    program = torch.export.load(path, extra_files=files).module()
    images = pictures(5)
    found = program(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(found.detach().numpy(), logits(model, images), atol=1e-5)
    assert read_facts(json.dumps(json.loads(files[FACTS_FILE])), "it") == facts


def test_onnx_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    model = network()
    with pytest.raises(RunError, match=r"pip install 'melfed\[export\]'"):
        export(model, facts_of(model), "onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    model = network()
    facts, there = facts_of(model), tmp_path / "there"
    there.touch()
    for arguments, reason in (
        (("pickle", tmp_path / "m"), "--format pickle: known are onnx, torch-export, safetensors"),
        (("safetensors", there), "exists; name another --out"),
        (("safetensors", tmp_path / "m", tmp_path), "--int8 is for --format onnx"),
    ):
        with pytest.raises(RunError, match=reason):
            export(model, facts, *arguments)
