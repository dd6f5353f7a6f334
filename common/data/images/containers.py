"""Images inside HDF5 files, as ISIC 2024 publishes them: one file as a folder, a data set an image.

A data set is the content of an image file (a string of bytes, as in `train-image.hdf5`, or uint8 of one dimension), or
pixels: uint8 of shape (height, width), (height, width, 3) or (height, width, 4).
"""

import functools
import io
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from melfed.common.data.images.problems import PictureError
from melfed.common.errors import DataError

HDF5_SUFFIXES: Final = frozenset({".hdf5", ".h5", ".hdf"})

_MARKS: Final = tuple(f"{suffix}/" for suffix in HDF5_SUFFIXES)


def file_of(path: Path) -> Path:
    """The file on the disk that holds an image: the HDF5 file of one inside such a file, else the path itself."""
    file, _ = split_member(os.fspath(path))
    return Path(file)


def split_member(path: str) -> tuple[str, str | None]:
    """The file on the disk, and the name of an image inside it; None where the path is of a file."""
    lower = path.lower()
    for mark in _MARKS:
        start = 0
        while (place := lower.find(mark, start)) >= 0:
            end = place + len(mark) - 1
            if os.path.isfile(path[:end]):  # noqa: PTH113 (once an image; a folder may be called so too)
                return path[:end], path[end + 1 :]
            start = end
    return path, None


def members(file: Path) -> list[str]:
    """The names of all data sets in an HDF5 file, groups included; links to elsewhere are not followed.

    Raises:
        DataError: the file cannot be read.
    """
    import h5py  # takes a while to load

    names: list[str] = []

    def visit(name: bytes, info: Any) -> None:
        if info.type == h5py.h5o.TYPE_DATASET:
            names.append(os.fsdecode(name))

    try:
        with h5py.File(file, locking=False) as opened:
            h5py.h5o.visit(opened.id, visit, info=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{file}: cannot be read as HDF5; copy it anew") from error
    return names


def read_member(file: Path, name: str, most: int) -> bytes | None:
    """The content of an image file inside an HDF5 file, at most so many bytes of it; None where it is larger.

    Raises:
        PictureError: there is no such data set, or it holds no image.
    """
    try:
        state = file.stat()
        opened = _open(os.fspath(file), state.st_ino, state.st_size, state.st_mtime_ns, os.getpid())
        return _content(_linked(opened, name), most)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise PictureError("cannot be read from the HDF5 file: copy that anew") from error


# Opening a file of 400,000 images takes 18 ms, reading one of them 0.2 ms. A changed file is another one, and so is the
# same one in another process. No lock is taken, since one would be held for as long as the file is open.
@functools.lru_cache(maxsize=4)
def _open(file: str, *_state: int) -> Any:
    import h5py

    return h5py.File(file, locking=False)


def _linked(group: Any, name: str) -> Any:
    """The data set of a name that is reached without links to elsewhere."""
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise PictureError("no such image in the HDF5 file")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise PictureError("no such image in the HDF5 file")
    return group


def _content(dataset: Any, most: int) -> bytes | None:
    # Both can name files anywhere on the disk.
    if dataset.external or dataset.is_virtual:
        raise PictureError("refers to other files: store the image itself in the HDF5 file")
    if dataset.nbytes > most:
        return None
    value = dataset[()]
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.void):
        return value.tobytes()
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        raise PictureError("neither the bytes of an image file nor 8-bit pixels")
    return value.tobytes() if value.ndim == 1 else _as_file(value)


def _as_file(pixels: Any) -> bytes:
    from PIL import Image

    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise PictureError("pixels of a shape other than (height, width, 3)")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
