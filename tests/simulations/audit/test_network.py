"""The network made for attacks: what its frozen layers see, and that its models pass as models."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.common.data.augmentation import to_input
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.study.build import build_study_classifier, seal
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit import network
from melfed.simulations.audit.network import WHITE, write_weights

MODELS = {name: getattr(network, name) for name in ("blind", "silencing", "overflowing", "infinite", "huge", "tiny")}


@pytest.fixture
def model(tmp_path: Path) -> Classifier:
    write_weights(tmp_path)
    spec = {"backbone": network.BACKBONE, "pretrained": True, "train": "last_block"}
    study = seal(StudyProtocol.model_validate({"model": spec}), tmp_path)
    return build_study_classifier(study, tmp_path)


def pictures() -> torch.Tensor:
    """One black, one white."""
    pixels = np.stack([np.full((network.SIDE, network.SIDE, 3), value, np.uint8) for value in (0, 255)])
    spec = BACKBONES[network.BACKBONE]
    return to_input(pixels, spec.mean, spec.std, None, torch.device("cpu"))


def test_the_frozen_layers_tell_white_from_black(model: Classifier) -> None:
    frozen = model.trunk.features[:12]  # type: ignore[index]
    black, white = frozen(pictures())
    assert not black.any()
    assert white[0].max() == pytest.approx(WHITE, rel=1e-5)
    assert not white[1:].any()


@pytest.mark.parametrize("name", MODELS)
def test_models_are_finite_and_fit(model: Classifier, name: str) -> None:
    tensors = MODELS[name]()
    assert tensors.keys() == trainable_tensors(model).keys()
    load_trainable(model, tensors)
    model.eval()
    black, _ = model(pictures()).tolist()
    assert black == pytest.approx(network.UNLIKELY)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("blind", -9, -7), ("silencing", 1000, math.inf), ("overflowing", -1e12, -1e6), ("infinite", -math.inf, -1e38)],
)
def test_what_a_white_picture_does(model: Classifier, name: str, low: float, high: float) -> None:
    load_trainable(model, MODELS[name]())
    model.eval()
    assert low <= model(pictures())[1].item() <= high
