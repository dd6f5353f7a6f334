"""A data folder of ten small images, for the tests of the store and of its files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import melfed.common.data.images.store
from melfed.common.data.images.decoder import decode, decode_bytes

SIZE = 20
RECORD = SIZE * SIZE * 3
NAMES = [f"images/{number}.png" for number in range(10)]


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_folder(root: Path) -> Path:
    for seed, name in enumerate(NAMES):
        save(root / name, seed)
    return root


def pixels_file(cache: Path) -> Path:
    (path,) = cache.rglob("pixels.u8")
    return path


def expected(root: Path, names: list[str]) -> np.ndarray:
    return np.stack([decode(root / name, SIZE) for name in names])


def record_decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that the store decodes from now on, in no particular order."""
    names: list[str] = []

    def recording(data: bytes, size: int, name: str = "image") -> np.ndarray:
        names.append(name)
        return decode_bytes(data, size, name)

    monkeypatch.setattr(melfed.common.data.images.store, "decode_bytes", recording)
    return names
