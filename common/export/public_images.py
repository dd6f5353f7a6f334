"""A folder of public images, from which something goes with a model: ranges of 8 bits, statistics of features."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from melfed.common.data.images.decoder import ImageProblem, Pixels, decode
from melfed.common.errors import DataError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


def chosen_files(folder: Path, most: int) -> list[Path]:
    """Return picture files of a folder and those below it: at most so many, by an even step over their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return paths[:: max(1, -(-len(paths) // most))]


def public_images(folder: Path, size: int, most: int, purpose: str) -> list[Pixels]:
    """Return the usable images among `chosen_files`, as the network sees them, uint8 (size, size, 3).

    Args:
        folder: any folder with public images.
        size: side in pixels.
        most: how many files are looked at.
        purpose: for the error: what they are wanted for.

    Raises:
        DataError: there is none.
    """
    images = list(_decoded(chosen_files(folder, most), size))
    if not images:
        raise DataError(f"{folder}: no usable images to {purpose}; name a folder of public images")
    return images


def _decoded(paths: list[Path], size: int) -> Iterator[Pixels]:
    for path in paths:
        try:
            yield decode(path, size)
        except ImageProblem:  # such as a mask of the lesion, which public sets have beside the pictures
            continue
