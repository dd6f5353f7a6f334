"""Small studies over the phantom, for tests that train."""

from collections.abc import Mapping

import torch
from torch import nn

from melfed.common.model.classifier import Classifier
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol

CPU = torch.device("cpu")


def small_study(**sections: Mapping[str, object] | object) -> StudyProtocol:
    """Return a study of a tiny network from scratch; keys of sections are merged into what every test shares."""
    content: dict[str, object] = {
        "name": "small",
        "data": {"image_size": 32},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"batch_size": 8, "augment": False, "warmup_steps": 0, "learning_rate": 0.01},
        "federation": {"rounds": 2},
    }
    for name, value in sections.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
    return StudyProtocol.model_validate(content)


def small_model(study: StudyProtocol) -> Classifier:
    """Return the study's network with a random head (it starts at zero, and so would the trunk's gradients)."""
    model = build_study_classifier(study)
    nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(3))
    return model


def without_dropout(model: Classifier) -> Classifier:
    """Switch off the dropout that belongs to the tiny network."""
    model.dropout.p = 0.0
    return model
