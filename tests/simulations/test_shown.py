"""A simulation of rendered images takes statistics of them; of any others, nothing is taken."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from melfed.common.data.origin import SYNTHETIC_NOTICE
from melfed.common.study.protocol import StudyProtocol
from melfed.server.results.evaluate import predict
from melfed.server.results.seen import NAME
from melfed.server.runs.folder import RunFolder
from melfed.simulations import run as run_module
from melfed.simulations import shown as shown_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.run import simulate
from melfed.simulations.shown import shown_images
from tests.in_process import SilentObserver, federate


def study_of(mode: str = "federated", **model: object) -> StudyProtocol:
    content = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False, **model},
        "federation": {"mode": mode, "rounds": 1},
    }
    return StudyProtocol.model_validate_json(json.dumps(content))


@pytest.fixture
def virtual(phantom: Path, tmp_path: Path) -> VirtualClinics:
    return divide(study_of(), phantom, tmp_path / "cache")


def test_they_are_training_and_validation_images_and_never_test_images(virtual: VirtualClinics) -> None:
    found = shown_images(study_of(), virtual)
    assert found is not None
    for part, pixels in (("train", found.learnt), ("validation", found.held_out)):
        expected = {image.tobytes() for clinic in virtual.clinics for image in pixels_of(clinic, part)}
        assert {image.tobytes() for image in pixels} == expected


def pixels_of(clinic, part: str) -> np.ndarray:
    images = clinic.load(part)
    return images.pixels(np.arange(len(images)))


def test_no_more_are_taken_than_a_run_has_time_for(virtual: VirtualClinics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_module, "MOST_SHOWN", 20)
    monkeypatch.setattr(shown_module, "_HELD_OUT", 5)
    found = shown_images(study_of(), virtual)
    assert found is not None
    assert len(found.held_out) <= 5
    assert 10 <= len(found.learnt) <= 20 - len(found.held_out)


def test_of_images_that_are_not_rendered_nothing_is_taken(phantom: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    shutil.copytree(phantom, real)
    (real / SYNTHETIC_NOTICE).unlink()
    assert shown_images(study_of(), divide(study_of(), real, tmp_path / "cache")) is None


@pytest.mark.parametrize("study", [study_of("local"), study_of(metadata=True)])
def test_nothing_is_taken_where_no_statistics_would_be_of_use(study: StudyProtocol, virtual: VirtualClinics) -> None:
    assert shown_images(study, virtual) is None


def test_a_part_without_images_gives_none(virtual: VirtualClinics) -> None:
    bare = tuple(dataclasses.replace(clinic, validation=()) for clinic in virtual.clinics)
    found = shown_images(study_of(), dataclasses.replace(virtual, clinics=bare))
    assert found is not None
    assert not found.held_out


@pytest.mark.parametrize("mode", ["federated", "central"])
def test_a_run_of_them_warns_without_a_further_command_and_has_the_same_model(
    mode: str, virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    with_it = simulate(study_of(mode), virtual, tmp_path / "run", SilentObserver())
    folder = RunFolder.open(tmp_path / "run")
    (found,) = predict(folder.path, [virtual.root / virtual.records[0].image])
    assert found.unlike is not None
    assert "carries no statistics" not in (folder.path / "model-card.md").read_text()
    assert NAME in (folder.path / "SHA256SUMS").read_text()
    without = simulate(study_of(mode), virtual, tmp_path / "compared", SilentObserver(), alone=False)
    assert not (tmp_path / "compared" / NAME).exists()
    assert without.test == with_it.test
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "compared")]
    assert models[0] == models[1]
