"""A folder of public images: what is usable of it, an even part of many."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.common.errors import DataError
from melfed.common.export.public_images import chosen_files, public_images
from tests.common.export.models import SIZE, pictures


def test_images_are_those_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number, picture in enumerate(pictures(3, 40, 50)):
        Image.fromarray(picture).save(tmp_path / "deep" / f"{number}.png")
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    (tmp_path / "table.csv").write_text("image\n")
    images = public_images(tmp_path, SIZE, 10, "look at")
    assert [image.shape for image in images] == [(SIZE, SIZE, 3)] * 3


@pytest.mark.parametrize(("files", "most", "step"), [(9, 10, 1), (10, 10, 1), (11, 10, 2), (21, 10, 3)])
def test_of_many_files_an_even_part_is_chosen(tmp_path: Path, files: int, most: int, step: int) -> None:
    for number in range(files):
        (tmp_path / f"{number:04}.png").touch()
    assert [int(path.stem) for path in chosen_files(tmp_path, most)] == list(range(0, files, step))


def test_a_folder_without_images_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable images to look at; name a folder of public images"):
        public_images(tmp_path, SIZE, 10, "look at")
