"""Finished runs of the small network, for the tests of what starts from one."""

from pathlib import Path

import torch

from melfed.common.files import write_text
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from melfed.server.results.evaluate import save_model
from melfed.server.runs.summary import PublicData
from tests.common.networks import Choices


def public_model(*, neck: int | None = None, metadata: bool = False, seed: int = 1) -> Classifier:
    """A network with random values everywhere, in place of one that was trained on public images."""
    model = build_classifier(Choices(neck=neck, metadata=metadata), seed=seed, state=None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("head.", "neck.")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def finished_run(folder: Path, model: Classifier) -> Path:
    """A folder with what a warm start looks at: a run's study and its model."""
    folder.mkdir()
    study = StudyProtocol(model=ModelSpec(backbone=model.backbone, pretrained=False))
    write_text(folder / "study.yaml", study_yaml(study))
    data = PublicData(study="public", digest="0" * 64, images=10, sources=("somewhere",))
    save_model(folder / "model.safetensors", model, study, data)
    return folder
