"""From a study to its network: weights found, checked against the protocol, and loaded."""

import functools
import math
from pathlib import Path

import torch

from melfed.common.algorithms import algorithm_of
from melfed.common.errors import StudyError, WeightsError
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.backbones.timm_models import require_size
from melfed.common.model.classifier import Classifier, build_classifier, trainable_tensors, warm_classifier
from melfed.common.model.neck import Neck, tap_modules
from melfed.common.model.norms import affine_names
from melfed.common.model.weights import WeightsFile, find_weights, load_weights, run_metadata
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors, load_tensors

LONGEST_START = 0.5
"""Standard deviation that a public run's head may give logits of public images, where a private study begins with it.

Within ± 0.5 the sigmoid is all but straight, so the first gradients are nearly those of a head at zero, while the
head's direction is kept. A longer head has to be turned by steps that are clipped, and sixty of them do not turn it.
"""


def study_weights(study: StudyProtocol, weights_dir: Path | None = None, *, download: bool = True) -> WeightsFile:
    """Return the file of a pretrained study's weights, checked against the digest that the study states.

    Args:
        study: names weights, or their digest, or neither.
        weights_dir: where they are looked for first.
        download: whether the network may be used.

    Raises:
        WeightsError: there are no such weights, or they are others than the study says.
    """
    return find_weights(
        study.model.backbone,
        weights=Path(study.model.weights) if study.model.weights else None,
        weights_dir=weights_dir,
        expected_sha256=study.model.weights_sha256,
        download=download,
    )


def require_backbone(study: StudyProtocol) -> None:
    """Raise StudyError where there is no such backbone, or it does not take images of the study's size."""
    name, size = study.model.backbone, study.data.image_size
    if backbone_spec(name).timm is not None:
        require_size(name, size)


def seal(study: StudyProtocol, weights_dir: Path | None = None, *, download: bool = True) -> StudyProtocol:
    """Return the study with its weights' SHA-256 written in, so that its digest covers them. Raises WeightsError."""
    if not study.model.pretrained:
        return study
    return study.with_changes("model", weights_sha256=study_weights(study, weights_dir, download=download).sha256)


def located(study: StudyProtocol, weights_dir: Path | None = None) -> StudyProtocol:
    """Return the study with its weights' path written in, for processes that cannot search. Raises WeightsError."""
    if not study.model.pretrained:
        return study
    return study.with_changes("model", weights=str(study_weights(study, weights_dir).path.resolve()))


def build_study_classifier(study: StudyProtocol, weights_dir: Path | None = None) -> Classifier:
    """Return the study's network as it stands before the first round, on the CPU. Raises WeightsError, StudyError."""
    require_backbone(study)
    seed = seed_for(study.seed_of("model"), "model")
    plain = study.model.model_copy(update={"neck": None})
    if not study.model.pretrained:
        return build_classifier(plain, seed=seed, state=None)
    file = study_weights(study, weights_dir)
    metadata = run_metadata(file)
    if metadata is None:
        if study.model.neck and study.federation.with_clinics:
            raise StudyError(
                f"model.neck is {study.model.neck}, but {file.path} is no finished run: name one in model.weights that "
                "was trained on public images with the same neck (federation.mode: central)"
            )
        model = build_classifier(plain, seed=seed, state=load_weights(file, study.model.backbone))
        if study.model.neck:
            # A central run gets its neck when it has finished, from its own images' features: that it can is seen now.
            pixels = backbone_spec(study.model.backbone).size
            Neck(*tap_modules(model.trunk, pixels), study.model.neck)
        return model
    if metadata["backbone"] != study.model.backbone:
        raise WeightsError(f"{file.path}: a run of {metadata['backbone']}, but the study's is {study.model.backbone}")
    return _warm(study, seed, file)


def _warm(study: StudyProtocol, seed: int, file: WeightsFile) -> Classifier:
    """Return the study's network with a run's trunk, and its head and metadata branch where they fit.

    In a private study the head on a neck begins no longer than `LONGEST_START` allows.
    """
    tensors = {name: torch.from_numpy(array) for name, array in load_tensors(file.path)[0].items()}
    model, missing = warm_classifier(study.model, seed=seed, tensors=tensors)
    if any(name.startswith("neck.") for name in missing):
        raise StudyError(f"model.neck is {study.model.neck}, but the run {file.path} has another neck, or none")
    if study.privacy is not None and study.model.neck:
        _fill(model.head, tensors, study.model.neck)
        _shorten(model.head, study.model.neck)
    return model


def _fill(head: torch.nn.Linear, tensors: dict[str, torch.Tensor], features: int) -> None:
    """Let a head that sees metadata after the neck's features begin at the public head for these, and 0 for those."""
    weight, bias = tensors.get("head.weight"), tensors.get("head.bias")
    if weight is None or bias is None or weight.shape != (1, features) or head.in_features == features:
        return
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, :features] = weight
        head.bias.copy_(bias)


def _shorten(head: torch.nn.Linear, features: int) -> None:
    """Scale a head on whitened features such that its logits have a standard deviation of at most `LONGEST_START`."""
    with torch.no_grad():
        # Whitened features have a mean of 0 and a variance of 1 / features each (`melfed.common.model.neck.whitening`).
        spread = float(head.weight.double().norm()) / math.sqrt(features)
        share = min(1.0, LONGEST_START / spread) if spread > 0 else 1.0
        head.weight.mul_(share)
        head.bias.mul_(share)


def local_names(study: StudyProtocol, model: Classifier) -> frozenset[str]:
    """Return the names of the parameters that learn and stay at each clinic, by the study's algorithm.

    Raises:
        StudyError: the algorithm keeps the normalisation layers, and the network has none that learns.
    """
    algorithm = study.federation.algorithm
    if study.federation.mode != "federated" or not algorithm_of(algorithm).local_affine:
        return frozenset()
    if names := affine_names(model):
        return names
    raise StudyError(
        f"federation.algorithm {algorithm} keeps normalisation layers at the clinics, and none of "
        f"{study.model.backbone} learns with model.train {study.model.train}; take another backbone, or fedavg"
    )


@functools.lru_cache(maxsize=2)
def local_start(study: StudyProtocol, weights_dir: Path | None) -> Tensors:
    """Return the values before the first round of the parameters of `local_names`. Raises StudyError, WeightsError."""
    if not algorithm_of(study.federation.algorithm).local_affine:
        return {}
    model = build_study_classifier(study, weights_dir)
    names = local_names(study, model)
    return {name: tensor for name, tensor in trainable_tensors(model).items() if name in names}


@functools.lru_cache(maxsize=2)
def alone_start(study: StudyProtocol, weights_dir: Path | None) -> Tensors:
    """Return what a clinic's own model of `evaluation.local_baseline` begins from; nothing where there is none.

    That is where the global one began, whatever that has learnt since. Raises StudyError, WeightsError.
    """
    if not study.evaluation.local_baseline:
        return {}
    return trainable_tensors(build_study_classifier(study, weights_dir))


def shared_tensors(study: StudyProtocol, model: Classifier) -> Tensors:
    """Return the parameters that learn and travel, as the global model holds them. Raises StudyError."""
    local = local_names(study, model)
    return {name: tensor for name, tensor in trainable_tensors(model).items() if name not in local}
