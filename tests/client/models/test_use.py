"""What a clinic does with a model: its own images scored as they are, pictures, other formats."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.client.config.clinic import ClinicConfig
from melfed.client.data.loading import clinic_data
from melfed.client.ledger.key import ledger_key
from melfed.client.models.store import KeptModel, ModelStore
from melfed.client.models.use import evaluate, export, predict
from melfed.common.audit.log import read_log
from melfed.common.errors import DataError
from melfed.common.metrics.exact import scored_metrics
from melfed.common.model.inference import score
from melfed.common.tensors import load_tensors
from tests.client.models.delivered import FACTS, MODEL, clinic_for_models
from tests.client.small import CPU, small_study
from tests.common.export.models import logits, pictures

STUDY = small_study(partition={"by": "source", "minimum_images": 4, "validation": 0.2, "test": 0.3})


@pytest.fixture
def config(tmp_path: Path, phantom: Path) -> ClinicConfig:
    found = clinic_for_models(tmp_path)
    data = found.file.data.model_copy(update={"folder": str(phantom), "sources": ("phantom_north",)})
    return replace(found, file=found.file.model_copy(update={"data": data, "name": "phantom_north"}))


@pytest.fixture
def model(config: ClinicConfig) -> KeptModel:
    tensors = {name: value.numpy() for name, value in MODEL.state_dict().items()}
    facts = FACTS.model_copy(update={"study": STUDY.digest})
    return ModelStore(config.models).save(tensors, facts, STUDY, "ab" * 32)


def test_a_part_of_the_clinics_own_images_is_scored_exactly(config: ClinicConfig, model: KeptModel) -> None:
    seen: list[tuple[int, int]] = []
    ledger_key(config.ledger)
    metrics = evaluate(config, model, "test", lambda done, n: seen.append((done, n)))
    images = clinic_data(config, STUDY).load("test")
    scores = score(MODEL, images, 32, CPU)
    assert metrics == scored_metrics(scores, images.targets, images.groups)
    assert metrics.images == len(images) > 0
    assert seen[-1] == (len(images), len(images))
    assert not config.ledger.exists() or not config.ledger.read_bytes(), "nothing is charged"
    assert not config.audit_log.exists() or not list(read_log(config.audit_log))


def test_an_empty_part_is_told_of(config: ClinicConfig, model: KeptModel) -> None:
    none = replace(model, study=small_study(partition={"by": "source", "minimum_images": 4, "validation": 0.0}))
    with pytest.raises(DataError, match="no image is in the validation part"):
        evaluate(config, none, "validation")


def test_pictures_and_other_formats(model: KeptModel, tmp_path: Path) -> None:
    (picture,) = pictures(1)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (found,) = predict(model, [tmp_path / "a.png"])
    assert found.logit == pytest.approx(logits(MODEL, picture[None])[0])
    export(model, "safetensors", tmp_path / "m.safetensors")
    tensors, header = load_tensors(tmp_path / "m.safetensors")
    assert header["study_digest"] == STUDY.digest
    assert all(np.array_equal(tensors[name], value.numpy()) for name, value in MODEL.state_dict().items())
