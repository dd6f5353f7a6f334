"""Studies that hardly take a second, and the crowds that share a clinic with the patient in question."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch

from melfed.client.data.split import part_of
from melfed.common.model.classifier import build_trunk
from melfed.common.study.build import seal
from melfed.common.study.protocol import PartitionSpec, StudyProtocol
from tests.client.small import small_study
from tests.neighbours.clinics import NAME, SECRET, SPEC, Patient, crowd

PARTITION = SPEC.model_dump(mode="json")
PRIVATE = {"unit": "patient", "epsilon": 1.0, "steps": 2, "recipe": "manual"}
PLAIN = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def study_of(**sections: Mapping[str, object]) -> StudyProtocol:
    """Return a private study of the tiny network from scratch, with keys of sections replaced."""
    defaults = {"partition": PARTITION, "privacy": PRIVATE, "training": {**PLAIN, "augment": True}}
    return small_study(
        **{name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}
    )


def pretrained(folder: Path, backbone: str, **sections: Mapping[str, object]) -> StudyProtocol:
    """Return such a study of another backbone, which starts from weights that are made here, in a folder."""
    file = folder / f"{backbone}.pth"
    if not file.exists():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            state = build_trunk(backbone, pretrained=True).state_dict()
        torch.save(state, file)
    model = {"backbone": backbone, "pretrained": True, **sections.pop("model", {})}
    return seal(study_of(model=model, **sections), folder)


def training_crowd(units: int, spec: PartitionSpec = SPEC) -> tuple[Patient, ...]:
    """Return the smallest crowd of which so many patients are in the training part."""
    for size in itertools.count(units):
        patients = crowd(size)
        if sum(part_of(who.unit, NAME, spec, SECRET) == "train" for who in patients) == units:
            return patients
    raise AssertionError


def bystanders(count: int, spec: PartitionSpec = SPEC) -> tuple[Patient, ...]:
    """Return patients none of whom is in the training part."""
    everyone = crowd(10 * count + 20)
    return tuple(who for who in everyone if part_of(who.unit, NAME, spec, SECRET) != "train")[:count]
