"""What a model's head sees of images."""

import numpy as np
import torch

from melfed.common.data.augmentation import to_input
from melfed.common.data.images.decoder import Pixels
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier
from melfed.common.model.inference import autocast, micro_batches, pick_device
from melfed.common.progress import Progress
from melfed.common.tensors import Array


def features_of(model: Classifier, pixels: list[Pixels], progress: Progress | None = None) -> Array:
    """Return what the head sees of images, float32 (n, features)."""
    spec, size, device = backbone_spec(model.backbone), pixels[0].shape[0], pick_device()
    model = model.to(device).eval()
    rows, done = [], 0
    with torch.inference_mode(), autocast(device):
        for part in micro_batches(np.arange(len(pixels)), size, device):
            inputs = to_input(np.stack([pixels[i] for i in part]), spec.mean, spec.std, None, device)
            rows.append(model.features(inputs).float().cpu().numpy())
            done += len(part)
            if progress is not None:
                progress(done, len(pixels))
    return np.concatenate(rows)
