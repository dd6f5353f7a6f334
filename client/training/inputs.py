"""What a network is run on: the pixels of a clinic's images, or the stored outputs of its frozen prefix."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from melfed.client.training.feature_cache import FeatureCache
from melfed.common.data.dataset import Images
from melfed.common.model.classifier import Classifier
from melfed.common.model.frozen_prefix import Split, split
from melfed.common.model.inference import at_least_single, autocast, logits_of, micro_batch_size, power_of_two
from melfed.common.progress import Progress
from melfed.common.study.protocol import StudyProtocol

Indices = npt.NDArray[np.int64]

CACHED_MICRO_BATCH_ELEMENTS = 1 << 22
"""Stored activations that are run at once: 16 MiB of them."""
CACHED_MICRO_BATCH_ROWS = 1 << 11
"""Rows of them at most: a batch that is filled up (`scores_of`) has as many, of however few images."""


class Inputs(Protocol):
    """Runs a network on some of a clinic's images."""

    @property
    def micro_batch(self) -> int:
        """How many rows (image and view) suit the device at once."""

    @property
    def views(self) -> int:
        """How many views of an image there are to choose from; 1 where views are drawn at random."""

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:
        """Return logits, shape (k,), for k rows: image numbers, and which view of each (None: the plain image)."""


class PixelInputs:
    """Decoded images, augmented at random each time where a generator is given."""

    views = 1

    def __init__(
        self,
        model: Classifier,
        images: Images,
        image_size: int,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> None:
        self.model, self.images, self.generator, self.device = model, images, generator, device
        self.micro_batch = micro_batch_size(image_size, device)

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:  # noqa: ARG002 (drawn at random)
        """Return logits, shape (k,)."""
        return logits_of(self.model, self.images, images, self.generator, self.device)


class CachedInputs:
    """Stored outputs of the frozen prefix: the prefix is not run again."""

    def __init__(
        self, split: Split, features: npt.NDArray[np.float32], images: Images, with_metadata: bool, device: torch.device
    ) -> None:
        """Take the features of `melfed.client.training.feature_cache.FeatureCache`, shape (n, views, ...)."""
        self.split, self.features, self.device = split, features, device
        self.metadata = images.metadata if with_metadata else None
        self.views = features.shape[1]
        fitting = CACHED_MICRO_BATCH_ELEMENTS // int(np.prod(features.shape[2:]))
        self.micro_batch = power_of_two(min(fitting, CACHED_MICRO_BATCH_ROWS))

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:
        """Return logits, shape (k,)."""
        chosen = np.zeros(len(images), np.int64) if views is None else views
        activations = torch.from_numpy(self.features[images, chosen]).to(self.device)
        metadata = None
        if self.metadata is not None:
            metadata = torch.from_numpy(self.metadata[images]).to(self.device)
        with autocast(self.device):
            logits: torch.Tensor = self.split.tail(activations, metadata)
        return at_least_single(logits)


def stored_inputs(
    cache: FeatureCache,
    model: Classifier,
    images: Images,
    study: StudyProtocol,
    device: torch.device,
    *,
    views: int = 1,
    on_progress: Progress | None = None,
) -> CachedInputs | None:
    """Return the stored outputs of a study's frozen prefix for some images, computed where they are not stored yet.

    None where no prefix is frozen, where there are no images, or where they do not fit into the cache: the caller has
    to run the whole network. See `FeatureCache.features`.
    """
    parts = split(model)
    if parts is None:
        return None
    features = cache.features(model, images, study.data.image_size, device, views=views, on_progress=on_progress)
    return None if features is None else CachedInputs(parts, features, images, study.model.metadata, device)


class Watched:
    """Inputs that look before each micro-batch whether the work goes on."""

    def __init__(self, inputs: Inputs, step: Callable[[], None]) -> None:
        self.inputs, self.step = inputs, step
        self.micro_batch, self.views = inputs.micro_batch, inputs.views

    def logits(self, images: Indices, views: Indices | None = None) -> torch.Tensor:
        """Return logits, shape (k,)."""
        self.step()
        return self.inputs.logits(images, views)


def scores_of(model: Classifier, inputs: Inputs, count: int, *, one_shape: bool = False) -> npt.NDArray[np.float64]:
    """Return the logit of a positive for each of `count` images, unaugmented and in double precision, shape (count,).

    Args:
        model: what is run.
        inputs: runs it.
        count: how many images there are.
        one_shape: whether the last batch is filled up, with images that are then left out, so that all have the same
            shape. Kernels round by the shapes that they get: in a private study an image's score must not depend on
            how many others there are (`melfed.client.privacy.calls`).
    """
    scores = np.empty(count)
    model.eval()
    with torch.inference_mode():
        for start in range(0, count, inputs.micro_batch):
            part = np.arange(start, min(start + inputs.micro_batch, count))
            batch = np.resize(part, inputs.micro_batch) if one_shape else part
            logits = inputs.logits(batch)[: len(part)]
            scores[part] = logits.cpu().numpy()
    return scores
