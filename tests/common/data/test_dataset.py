"""Labelled images: their targets, groups, metadata, pixels in the order asked for, and counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore
from melfed.common.data.metadata import encode_metadata
from tests.common.lesions import record


@pytest.fixture
def images(tmp_path: Path) -> Images:
    records = (
        record("a.png", target=1, patient_id="p", age=70.0),
        record("b.png", lesion_id="l"),
        record("c.png", target=1, patient_id="p"),
    )
    for number, each in enumerate(records):
        Image.new("RGB", (40, 40), (number, 10 * number, 100)).save(tmp_path / each.image)
    store = ImageStore.build(tmp_path / "cache", tmp_path, [each.image for each in records], 32)
    return Images(records, store)


def test_labels_groups_and_metadata_are_those_of_the_records(images: Images) -> None:
    assert len(images) == 3
    assert images.targets.tolist() == [1.0, 0.0, 1.0]
    assert images.targets.dtype == np.float32
    assert images.groups == ["patient:p", "lesion:l", "patient:p"]
    np.testing.assert_array_equal(images.metadata, encode_metadata(images.records))
    assert images.counts() == {"images": 3, "positives": 2, "groups": 2}


def test_pixels_come_in_the_order_asked_for(images: Images) -> None:
    pixels = images.pixels([2, 0, 2])
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32, 3), np.uint8)
    assert pixels[:, 0, 0].tolist() == [[2, 20, 100], [0, 0, 100], [2, 20, 100]]
