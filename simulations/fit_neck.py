"""Giving a centrally trained model its neck: features from several depths, whitened by its own training images."""

import numpy as np
import torch
from torch.nn import functional as F

from melfed.common.data.augmentation import to_input
from melfed.common.data.dataset import Images
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier, set_trainable
from melfed.common.model.inference import autocast, micro_batches
from melfed.common.model.neck import whitening
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Array

HEAD_DECAY = 1e-2
"""L2 penalty of the head's weights, in units of the mean loss per whitened feature of unit variance."""


def with_neck(model: Classifier, images: Images, study: StudyProtocol, device: torch.device) -> Classifier:
    """Return the trained model with a neck and a head refitted behind it; the statistics are those of `images`.

    Args:
        model: without a neck.
        images: what it was trained on. They count as public from here on: their statistics are in the neck.
        study: states `model.neck`, the number of whitened features.
        device: where the model is.
    """
    length, rate = study.model.neck or 0, model.dropout.p
    whole = Classifier(model.backbone, model.trunk, metadata=model.metadata is not None, dropout=rate, neck=length)
    whole.to(device)
    pooled = pooled_features(whole, images, study.data.image_size, device)
    if whole.neck is not None:
        mean, projection = whitening(pooled, length)
        with torch.no_grad():
            whole.neck.mean.copy_(torch.from_numpy(mean))
            whole.neck.projection.copy_(torch.from_numpy(projection))
            _fit_head(whole, whole.neck(torch.from_numpy(pooled).to(device)), images, study)
    set_trainable(whole, study.model.train)
    return whole


def pooled_features(model: Classifier, images: Images, image_size: int, device: torch.device) -> Array:
    """Return what the neck sees of every image, unaugmented, shape (images, inputs)."""
    backbone = backbone_spec(model.backbone)
    model.eval()
    rows = []
    with torch.inference_mode(), autocast(device):
        for part in micro_batches(np.arange(len(images)), image_size, device):
            inputs = to_input(images.pixels(part), backbone.mean, backbone.std, None, device)
            rows.append(model.pooled(inputs).float().cpu().numpy())
    return np.concatenate(rows)


def _fit_head(model: Classifier, features: torch.Tensor, images: Images, study: StudyProtocol) -> None:
    """Fit the head by penalised logistic regression on the whitened features, shape (images, neck)."""
    device = features.device
    metadata = torch.from_numpy(images.metadata).to(device) if model.metadata is not None else None
    targets = torch.from_numpy(images.targets).to(device)
    weight = torch.tensor(study.training.positive_weight, device=device)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = torch.optim.LBFGS(model.head.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    decay = HEAD_DECAY / features.shape[1]

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = model.logits(features, metadata)
        value = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
        penalised: torch.Tensor = value + decay / 2 * (model.head.weight**2).sum()
        penalised.backward()  # type: ignore[no-untyped-call]
        return penalised

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
