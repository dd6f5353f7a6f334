"""Every model family of the paper through one federated round: two clinics, Flower's messages, no Ray."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from melfed.client.ledger.ledger import verify
from melfed.client.ledger.rows import charges
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import build_trunk, trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.file import read_study
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom
from tests.common.networks import VGG, narrow_vgg
from tests.in_process import federate_here

SIZE = 32
EXHAUSTIVE = (pytest.mark.exhaustive, pytest.mark.timeout(1200))
PRETRAINED = ("mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x1_0")
VIT = "timm/test_vit.r160_in1k"
PARTS = [
    *itertools.product(PRETRAINED, ("head", "affine", "last_block", "full")),
    *itertools.product((VIT,), ("head", "affine", "last_block")),
]
"""Backbones with weights, and the parts of each that can learn privately."""


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> VirtualClinics:
    folder = tmp_path_factory.mktemp("families")
    data = write_phantom(folder / "data", PhantomSpec(clinics=2, images=40, melanoma_rate=0.4, size=SIZE))
    return divide(a_study(folder), data, folder / "cache")


def a_study(folder: Path, privacy: str | None = None, **model: object) -> StudyProtocol:
    """Return a study of one round over a few small images."""
    path = folder / "study.yaml"
    changes = {
        "data.image_size": SIZE,
        "federation.rounds": 1,
        **({} if privacy else {"partition.minimum_images": 2, "training.batch_size": 32}),
        **{f"model.{key}": value for key, value in model.items()},
    }
    path.write_text(f"name: families\nprivacy: {privacy or 'null'}\n")
    return read_study(path, [f"{key}={str(value).lower()}" for key, value in changes.items()])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights for the backbones of `PRETRAINED` that are anything but ImageNet's."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        for backbone in PRETRAINED:
            torch.manual_seed(0)
            torch.save(build_trunk(backbone, pretrained=True).state_dict(), folder / f"{backbone}.pth")
        # As the Hugging Face hub has them: with the classifier, and with a header of its own.
        state = timm.create_model(VIT.removeprefix("timm/")).state_dict()
        save_file(state, folder / f"{VIT.removeprefix('timm/')}.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "backbone", [name for name in BACKBONES if name not in VGG] + [pytest.param(name, marks=EXHAUSTIVE) for name in VGG]
)
def test_one_round_from_scratch(backbone: str, virtual: VirtualClinics, tmp_path: Path) -> None:
    one_round_from_scratch(backbone, virtual, tmp_path)


@pytest.mark.parametrize("backbone", VGG)
def test_one_round_from_scratch_of_a_narrow_network(backbone: str, virtual: VirtualClinics, tmp_path: Path) -> None:
    """The whole one, above, takes a minute."""
    with narrow_vgg():
        one_round_from_scratch(backbone, virtual, tmp_path)


def one_round_from_scratch(backbone: str, virtual: VirtualClinics, tmp_path: Path) -> None:
    study = a_study(tmp_path, backbone=backbone, pretrained=False)
    outcome = federate_here(study, virtual.clinics, RunFolder.create(tmp_path / "run", study))
    model = outcome.models[""]
    assert all(np.isfinite(tensor).all() for tensor in model.values())
    images = sum(len(clinic.test) for clinic in virtual.clinics)
    assert sum(histogram.images for histogram in outcome.test.values()) == images
    (row,) = [event for event in RunFolder.open(tmp_path / "run").events() if event["event"] == "round"]
    assert row["answered"] == ["phantom_north", "phantom_south"]
    assert np.isfinite(row["train_loss"])
    plain = sum(tensor.size for tensor in model.values()) * 4 * len(virtual.clinics)
    overhead = 40_000 * len(virtual.clinics)  # names and shapes, and the validation histogram
    assert plain <= row["bytes_down"] <= plain * 1.05 + overhead
    assert plain <= row["bytes_up"] <= plain * 1.05 + overhead


@pytest.mark.parametrize(("backbone", "train"), PARTS)
def test_one_round_of_each_part_of_a_pretrained_network(
    backbone: str, train: str, virtual: VirtualClinics, weights: Path, tmp_path: Path
) -> None:
    study = a_study(tmp_path, backbone=backbone, train=train, metadata=train == "last_block")
    outcome = federate_here(study, virtual.clinics, RunFolder.create(tmp_path / "run", study), weights)
    names = set(outcome.models[""])
    assert {"head.weight", "head.bias"} <= names
    assert (names == {"head.weight", "head.bias"}) == (train == "head")
    assert any(name.startswith("metadata.") for name in names) == (train == "last_block")
    assert not any("running" in name for name in names)
    assert histogram_metrics(outcome.test["phantom_north"]).brier is not None


@pytest.mark.parametrize(("backbone", "train"), PARTS)
def test_one_private_round_of_each_part_of_a_pretrained_network(
    backbone: str, train: str, virtual: VirtualClinics, weights: Path, tmp_path: Path
) -> None:
    """Cached where a prefix is frozen: what is learnt travels as it does without privacy, and is charged."""
    privacy = "{unit: patient, epsilon: 8.0, evaluation: public, recipe: manual, views: 2}"
    study = a_study(tmp_path, privacy, backbone=backbone, train=train, metadata=train == "last_block")
    folder = RunFolder.create(tmp_path / "run", study)
    outcome = federate_here(study, virtual.clinics, folder, weights)
    plain = build_study_classifier(study, weights)
    before = trainable_tensors(plain)
    assert outcome.models[""].keys() == before.keys()
    assert all(np.isfinite(tensor).all() for tensor in outcome.models[""].values())
    assert not np.array_equal(outcome.models[""]["head.weight"], before["head.weight"])
    for clinic in virtual.clinics:
        counts, charge = charges(verify(folder.ledgers / f"{clinic.name}.jsonl").rows)
        assert (counts["purpose"], counts["status"]) == ("counts", "released")
        assert (charge["purpose"], charge["steps"], charge["status"]) == ("training", 1, "released")
        assert 7.5 < charge["epsilon"] <= 8.0
