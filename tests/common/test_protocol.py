"""The study protocol: what is refused, and a digest that covers everything that influences training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from common.backbones import BACKBONES
from common.protocol import DataSpec, ModelSpec, PartitionSpec, PhantomSection, StudyProtocol, TrainingSpec
from common.study_file import documented_keys, read_study

DEFAULT_DIGEST = "dacfa12489c2104a157e9f812f6da31d70d65aa4a28f1b203d98f86a096aab9c"
"""Of the default study. Where it changes, so do the digests of all studies: approved studies and old checkpoints are no
longer recognised. Change it here only together with a key of the protocol."""

OTHER = {
    "name": "other",
    "data.positive": "[mel, bcc]",
    "data.image_size": 64,
    "data.sources": "[north]",
    "data.phantom": "{}",
    "data.phantom.images": 400,
    "data.phantom.clinics": 3,
    "data.phantom.melanoma_rate": 0.5,
    "partition.by": "iid",
    "partition.clinics": 3,
    "partition.alpha": 1,
    "partition.validation": 0.2,
    "partition.test": 0.3,
    "partition.minimum_images": 10,
    "model.backbone": "resnet18",
    "model.pretrained": "false",
    "model.train": "head",
    "model.metadata": "true",
    "model.dropout": 0.1,
    "model.weights": "somewhere.pth",
    "model.weights_sha256": "a" * 64,
    "training.optimizer": "sgd",
    "training.learning_rate": 1e-3,
    "training.schedule": "cosine",
    "training.warmup_steps": 7,
    "training.gradient_norm": "2.0",
    "training.weight_decay": 0,
    "training.momentum": 0.5,
    "training.batch_size": 8,
    "training.local_epochs": 2,
    "training.positive_weight": 3,
    "training.augment": "false",
    "federation.mode": "local",
    "federation.rounds": 6,
    "federation.algorithm": "fedprox",
    "federation.proximal_mu": 0.1,
    "federation.server_learning_rate": 0.5,
    "federation.server_momentum": 0.5,
    "federation.server_beta2": 0.5,
    "federation.server_tau": 0.1,
    "federation.cohort": 0.5,
    "federation.quorum": 0.5,
    "federation.validate_every": 2,
    "federation.deadline_seconds": 60,
    "resources.cpus": 2,
    "resources.gpus": 1,
    "seed": 1,
}
"""Another valid value of each key."""
OF_ONE_VALUE = {"protocol", "privacy"}
OUTSIDE_THE_DIGEST = {"model.weights", "resources.cpus", "resources.gpus"}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text("name: study\n")
    return path


def test_another_value_is_known_of_every_key() -> None:
    assert OTHER.keys() | OF_ONE_VALUE == {name for name, _, _ in documented_keys()}


@pytest.mark.parametrize("key", OTHER)
def test_the_digest_covers_every_key_that_influences_training(key: str, empty: Path) -> None:
    base = ["data.phantom={}"] if key.startswith("data.phantom.") else []
    before, after = read_study(empty, base), read_study(empty, [*base, f"{key}={OTHER[key]}"])
    assert before != after
    assert (before.digest == after.digest) == (key in OUTSIDE_THE_DIGEST)


def test_the_digest_is_pinned() -> None:
    assert StudyProtocol().digest == DEFAULT_DIGEST


def test_the_digest_is_the_same_in_every_process() -> None:
    code = "from common.protocol import StudyProtocol; print(StudyProtocol().digest)"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == StudyProtocol().digest


def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_how_a_number_is_written() -> None:
    one = StudyProtocol.model_validate_json('{"seed": 3, "name": "a", "training": {"learning_rate": 1, "momentum": 0}}')
    two = StudyProtocol.model_validate_json(
        '{"training": {"momentum": 0.0, "learning_rate": 1.0}, "name": "a", "seed": 3}'
    )
    three = StudyProtocol(name="a", seed=3, training=TrainingSpec(learning_rate=1, momentum=0))
    assert one.digest == two.digest == three.digest


def test_the_canonical_document_is_sorted_compact_ascii() -> None:
    study = StudyProtocol(data=DataSpec(sources=("Köln",)))
    text = study.canonical()
    content = json.loads(text)
    assert content["data"]["sources"] == ["Köln"]
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert text.isascii()


def test_every_section_refuses_unknown_keys_and_change() -> None:
    sections = [StudyProtocol, *(type(getattr(StudyProtocol(), name)) for name in StudyProtocol.model_fields)]
    sections = [section for section in (*sections, PhantomSection) if issubclass(section, BaseModel)]
    assert len(sections) == 8
    for section in sections:
        with pytest.raises(ValidationError, match="extra"):
            section(unknown=1)
        study = section()
        with pytest.raises(ValidationError, match="frozen"):
            setattr(study, next(iter(section.model_fields)), None)


@pytest.mark.parametrize(
    ("section", "content"),
    [
        (PartitionSpec, {"validation": 0.5, "test": 0.5}),
        (PartitionSpec, {"clinics": 0}),
        (PartitionSpec, {"alpha": 0.0}),
        (ModelSpec, {"backbone": "resnet"}),
        (ModelSpec, {"pretrained": False, "weights": "file.pth"}),
        (ModelSpec, {"pretrained": False, "weights_sha256": "a" * 64}),
        (ModelSpec, {"pretrained": False, "train": "head"}),
        (ModelSpec, {"weights_sha256": "A" * 64}),
        (ModelSpec, {"weights_sha256": "a" * 63}),
        (TrainingSpec, {"batch_size": "8"}),
        (TrainingSpec, {"batch_size": 8.0}),
        (TrainingSpec, {"batch_size": True}),
        (TrainingSpec, {"learning_rate": float("nan")}),
        (TrainingSpec, {"learning_rate": float("inf")}),
        (TrainingSpec, {"weight_decay": float("nan")}),
        (DataSpec, {"sources": ()}),
        (DataSpec, {"positive": ()}),
        (StudyProtocol, {"name": "../elsewhere"}),
        (StudyProtocol, {"name": ""}),
        (StudyProtocol, {"seed": -1}),
        (StudyProtocol, {"seed": 2**63}),
        (StudyProtocol, {"protocol": 2}),
        (StudyProtocol, {"privacy": {"epsilon": 1.0}}),
    ],
)
def test_refusals(section: type[BaseModel], content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section(**content)


def test_no_float_can_be_infinite_or_no_number() -> None:
    floats = [
        (section, name)
        for section in (PhantomSection, *(type(getattr(StudyProtocol(), name)) for name in StudyProtocol.model_fields))
        if issubclass(section, BaseModel)
        for name, field in section.model_fields.items()
        if field.annotation is float
    ]
    assert len(floats) > 15
    for section, name in floats:
        for value in (float("nan"), float("inf"), float("-inf")):
            with pytest.raises(ValidationError):
                section(**{name: value})


def test_with_changes_keeps_the_rest_and_validates() -> None:
    study = StudyProtocol(name="kept", data=DataSpec(sources=("a", "!b"), phantom=PhantomSection()), seed=4)
    changed = study.with_changes("model", weights_sha256="b" * 64)
    assert changed.model == ModelSpec(weights_sha256="b" * 64)
    assert changed.model_copy(update={"model": study.model}) == study
    with pytest.raises(ValidationError):
        study.with_changes("model", weights_sha256="no digest")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_allowed(backbone: str) -> None:
    assert ModelSpec(backbone=backbone).backbone == backbone
