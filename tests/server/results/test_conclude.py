"""What a deployed run begins with, and what is written of it where torch is; runs as a whole are in `test_deployed`."""

import subprocess
import sys
from pathlib import Path

import pytest

from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.results.conclude import write_initial, write_learnt
from tests.server.finished import finish, study_with


def test_what_learns_is_written_as_it_is_before_the_first_round(tmp_path: Path) -> None:
    study = StudyProtocol(model=ModelSpec(backbone="simple_cnn", pretrained=False))
    write_initial(study, tmp_path, tmp_path / "model.safetensors")
    found, _ = load_tensors(tmp_path / "model.safetensors", summed=True)
    expected = trainable_tensors(build_study_classifier(study))
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in expected.items()
    }


WAITS = (
    "server.flower.deployed",
    "server.flower.channel",
    "server.federation.conductor",
    "server.federation.rounds",
    "server.federation.one_round",
    "server.federation.delivery",
    "server.results.card",
    "server.results.facts",
    "server.results.solved",
    "server.report.page",
)
"""What the process needs that conducts a run, and waits for clinics for days."""


@pytest.mark.parametrize("module", WAITS)
def test_who_waits_for_clinics_has_no_torch_in_memory(module: str) -> None:
    code = f"import sys, melfed.{module}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_what_has_learnt_is_what_clinics_are_sent(tmp_path: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    write_learnt(folder.path, tmp_path / "learnt.safetensors")
    found, _ = load_tensors(tmp_path / "learnt.safetensors", summed=True)
    expected = trainable_tensors(model)
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in expected.items()
    }
