"""From a study to its network: weights found, checked against the protocol, and loaded."""

from collections.abc import Mapping
from pathlib import Path

import torch

from common.classifier import Classifier, build_classifier
from common.protocol import StudyProtocol
from common.seeds import seed_for
from common.weights import WeightsFile, find_weights, load_weights


def study_weights(study: StudyProtocol, weights_dir: Path | None = None) -> WeightsFile:
    """Return the file of a pretrained study's weights, checked against the digest that the study states.

    Raises:
        WeightsError: there are no such weights, or they are others than the study says.
    """
    return find_weights(
        study.model.backbone,
        weights=Path(study.model.weights) if study.model.weights else None,
        weights_dir=weights_dir,
        expected_sha256=study.model.weights_sha256,
    )


def seal(study: StudyProtocol, weights_dir: Path | None = None) -> StudyProtocol:
    """Return the study with its weights' SHA-256 written in, so that its digest covers them. Raises WeightsError."""
    if not study.model.pretrained:
        return study
    return study.with_changes("model", weights_sha256=study_weights(study, weights_dir).sha256)


def located(study: StudyProtocol, weights_dir: Path | None = None) -> StudyProtocol:
    """Return the study with its weights' path written in, for processes that cannot search. Raises WeightsError."""
    if not study.model.pretrained:
        return study
    return study.with_changes("model", weights=str(study_weights(study, weights_dir).path.resolve()))


def build_study_classifier(study: StudyProtocol, weights_dir: Path | None = None) -> Classifier:
    """Return the study's network as it stands before the first round, on the CPU. Raises WeightsError."""
    state: Mapping[str, torch.Tensor] | None = None
    if study.model.pretrained:
        state = load_weights(study_weights(study, weights_dir), study.model.backbone)
    return build_classifier(study.model, seed=seed_for(study.seed, "model"), state=state)
