"""Labelled images ready for a network: lesion records with their decoded pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from melfed.common.data.images.store import ImageStore
from melfed.common.data.metadata import encode_metadata
from melfed.common.data.records import LesionRecord, group_ids


@dataclass(frozen=True)
class Images:
    """Records with their decoded pixels, in the records' order."""

    records: tuple[LesionRecord, ...]
    store: ImageStore

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def targets(self) -> npt.NDArray[np.float32]:
        """0 or 1 an image, shape (n,)."""
        return np.array([record.target for record in self.records], np.float32)

    @cached_property
    def groups(self) -> list[str]:
        """The patient (or lesion, or image) of each image."""
        return group_ids(self.records)

    @cached_property
    def metadata(self) -> npt.NDArray[np.float32]:
        """Age, sex and site, encoded, shape (n, METADATA_FEATURES)."""
        return encode_metadata(self.records)

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the pixels of some images, uint8 (k, size, size, 3)."""
        return self.store.batch([self.records[int(i)].image for i in indices])

    def counts(self) -> dict[str, int]:
        """Return the numbers of `images`, `positives` and `groups`."""
        return {"images": len(self), "positives": int(self.targets.sum()), "groups": len(set(self.groups))}
