"""Outputs of a network's frozen prefix on disk: the prefix runs once an image and view, whatever the number of rounds.

They are found again by everything that they depend on: the prefix's weights, the preprocessing, and the images, by the
SHA-256 of their files and the version of the decoder. Whatever changes is computed anew; what is common to two lists of
images is copied. The files are those of `melfed.client.training.feature_files`.
"""

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from melfed.client.training.feature_files import KEY_DIGITS, ROW, FeatureFiles, Features, Numbers, Rows
from melfed.common.data.augmentation import Augmentation, to_input
from melfed.common.data.dataset import Images
from melfed.common.data.images.decoder import DECODER_VERSION
from melfed.common.errors import StudyError
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier
from melfed.common.model.frozen_prefix import Split, split
from melfed.common.model.inference import autocast, micro_batch_size, micro_batches
from melfed.common.progress import Progress
from melfed.common.seeds import seed_for

DEFAULT_LIMIT: Final = 20 * 2**30
"""Bytes that the folder may take."""

_FORMAT: Final = 2

_log = logging.getLogger(__name__)


class FeatureCache:
    """The stored outputs of frozen prefixes. Any number of processes may use one folder at the same time."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Use a folder, made when it is first needed, and of nothing else; at most `limit` bytes are kept there."""
        self.folder = folder.absolute()
        self.limit = limit
        self._refused: set[str] = set()
        self._checked: dict[str, tuple[int, ...]] = {}
        self._digests: dict[tuple[tuple[str, int], ...], str] = {}

    def features(
        self,
        model: Classifier,
        images: Images,
        image_size: int,
        device: torch.device,
        *,
        views: int = 1,
        on_progress: Progress | None = None,
    ) -> Features | None:
        """Return what the frozen prefix (`melfed.common.model.frozen_prefix.split`) makes of some images; computed
        where not stored yet.

        View 0 is the plain image. The others are augmented, each by random numbers that depend on the image and the
        number of the view alone.

        Args:
            model: lies on `device`.
            images: decoded at `image_size`.
            image_size: side of the images, in pixels.
            device: where missing rows are computed, under `melfed.common.model.inference.autocast`.
            views: number of views an image, the plain one included.
            on_progress: called with (rows stored, all rows) after each part that had to be computed.

        Returns:
            Shape (n, views, ...), a read-only memory map. None where the caller has to run the whole network: no prefix
            is frozen, there are no images, or they do not fit into the cache (logged once).

        Raises:
            StorageError: the folder cannot be written or read.
            StudyError: the network cannot be split.
            ValueError: the images have another size.
        """
        parts = split(model)
        if parts is None or not len(images):
            return None
        source = _Source(model.backbone, parts, images, image_size, device, views)
        files = FeatureFiles(self.folder, source.space(self._weights(parts.frozen)), source.rows())
        if files.name in self._refused:
            return None
        with files.held():
            if files.shape is None or self._checked.get(files.name) != files.stamp():
                if not self._fill(files, source, on_progress):
                    return None
                self._checked[files.name] = files.stamp()
            stored = files.stored()
        return stored.reshape(len(images), views, *stored.shape[1:])

    def _fill(self, files: FeatureFiles, source: "_Source", on_progress: Progress | None) -> bool:
        """Store all rows that are missing or damaged; False where they do not fit."""
        files.verify()
        if files.shape is None:
            shape = source.compute(np.arange(1)).shape[1:]
            if not files.create(shape, self.limit):
                self._refused.add(files.name)
                size = files.size(shape)
                _log.warning("feature cache %s: %d bytes do not fit into %d", self.folder, size, self.limit)
                return False
        files.copy_known()
        missing = files.missing()
        done = len(files.rows) - len(missing)
        for part in micro_batches(missing, source.image_size, source.device):
            files.write(part, source.compute(part))
            done += len(part)
            if on_progress:
                on_progress(done, len(files.rows))
        return True

    def _weights(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """Return the SHA-256 of a prefix's weights, known already unless the CRC-32 of one of them has changed."""
        content = {
            f"{name} {tensor.dtype} {tuple(tensor.shape)}\n": _bytes_of(tensor)
            for name, tensor in sorted(tensors.items())
        }
        # Nothing else shows every change: torch counts no writes through `data` or NumPy.
        quick = tuple((name, zlib.crc32(values)) for name, values in content.items())
        if quick not in self._digests:
            digest = hashlib.sha256()
            for name, values in content.items():
                digest.update(name.encode())
                digest.update(values)
            self._digests[quick] = digest.hexdigest()
        return self._digests[quick]


def computed_features(model: Classifier, images: Images, image_size: int, device: torch.device) -> Features:
    """Return what the frozen prefix makes of some images, without a cache; shape (n, ...), n at least 1.

    Raises:
        StudyError: the network cannot be split, or no part of it is frozen.
    """
    parts = split(model)
    if parts is None:
        raise StudyError("no part of the network is frozen; train the head alone (model.train: head)")
    return _Source(model.backbone, parts, images, image_size, device, 1).compute(np.arange(len(images)))


def _cut(numbers: Numbers, size: int) -> list[Numbers]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class _Source:
    """What is stored: the outputs of a network's prefix for the views of some images, a row each."""

    backbone: str
    parts: Split
    images: Images
    image_size: int
    device: torch.device
    views: int

    def space(self, weights: str) -> str:
        """Return the digest of everything that a row depends on but its image and view."""
        described = {
            "format": _FORMAT,
            "decoder": DECODER_VERSION,
            "backbone": self.backbone,
            "cut": self.parts.name,
            "weights": weights,
            "size": self.image_size,
            "mean": backbone_spec(self.backbone).mean,
            "std": backbone_spec(self.backbone).std,
            "augmentation": dataclasses.asdict(Augmentation()),
            "bfloat16": self.device.type == "cuda",
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]

    def rows(self) -> Rows:
        """Return image and view of each row, shape (images × views,), without checksums."""
        rows = np.zeros(len(self.images) * self.views, ROW)
        digests = b"".join(bytes.fromhex(self._sha256(image)) for image in range(len(self.images)))
        rows["image"] = np.repeat(np.frombuffer(digests, ROW["image"]), self.views)
        rows["view"] = np.tile(np.arange(self.views), len(self.images))
        return rows

    def compute(self, numbers: Numbers) -> Features:
        """Run the prefix for the rows of these numbers; shape (k, ...).

        It is run on batches of one size, filled up with rows that are then left out: kernels round by the shapes that
        they get, and what is stored of an image must not depend on how many others were computed with it.
        """
        size = micro_batch_size(self.image_size, self.device)
        parts = [self._batch(np.resize(part, size))[: len(part)] for part in _cut(numbers, size)]
        return np.concatenate(parts)

    def _batch(self, numbers: Numbers) -> Features:
        backbone = backbone_spec(self.backbone)
        pixels = self.images.pixels(numbers // self.views)
        if pixels.shape[1] != self.image_size:
            raise ValueError(f"the images are of {pixels.shape[1]} px, not {self.image_size} px")
        inputs = [
            to_input(pixels[i : i + 1], backbone.mean, backbone.std, self._generator(int(number)), self.device)
            for i, number in enumerate(numbers)
        ]
        with torch.inference_mode(), autocast(self.device):
            values: Features = self.parts.prefix(torch.cat(inputs)).float().cpu().contiguous().numpy()
        return values

    def _generator(self, number: int) -> torch.Generator | None:
        """Return what drives the augmentation of a row; None for the plain image."""
        image, view = divmod(number, self.views)
        return torch.Generator().manual_seed(seed_for(0, "view", self._sha256(image), view)) if view else None

    def _sha256(self, image: int) -> str:
        return self.images.store.digests[self.images.records[image].image]
