"""Named tensors that cross a boundary: what they must look like, and how they are kept in files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from melfed.common.errors import MelfedError, RunError
from melfed.common.files import atomic_write

CONTENT = "content_sha256"
"""In a file's header: SHA-256 of all else that is in it (files of melfed 0.1 have none)."""
Array = npt.NDArray[np.float32]
Tensors = dict[str, Array]


class TensorError(MelfedError):
    """Tensors from outside do not fit: wrong names, shapes, types, or values that are not finite."""


def check_tensors(tensors: Mapping[str, npt.NDArray[np.generic]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check tensors from outside before they are used.

    Args:
        tensors: what arrived.
        expected: the shape of every tensor, by name.

    Raises:
        TensorError: names the first tensor that does not fit and says how.

    >>> check_tensors({"head": np.zeros((1, 8), np.float32)}, {"head": (1, 8)})
    >>> check_tensors({"head": np.full((1, 8), np.nan, np.float32)}, {"head": (1, 8)})
    Traceback (most recent call last):
        ...
    melfed.common.tensors.TensorError: tensor head holds values that are not finite
    """
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        parts = [f"{word} {names[0]}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise TensorError(f"tensors do not fit the model: {' and '.join(parts)} ({len(missing)}/{len(unknown)} in all)")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise TensorError(f"tensor {name} is {tensor.dtype}, not float32")
        if tensor.shape != shape:
            raise TensorError(f"tensor {name} has shape {tensor.shape}, not {shape}")
        if not np.isfinite(tensor).all():
            raise TensorError(f"tensor {name} holds values that are not finite")


def shapes(tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor, by name."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, object]) -> None:
    """Write tensors as safetensors, atomically, with a SHA-256 of their content and of the metadata.

    Args:
        path: the file.
        tensors: by name.
        metadata: kept in the file's header, each value as JSON.

    Raises:
        StorageError: the file cannot be written; a previous one stays whole.
    """
    header = {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    header[CONTENT] = _content_sha256(contiguous, header)
    content = safetensors.numpy.save(contiguous, header)
    with atomic_write(path) as file:
        file.write(content)


def to_bytes(tensors: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Return tensors as one safetensors file. Raises TensorError where one is of no kind that has a place there.

    >>> content = to_bytes({"head": np.ones(3, np.float32)})
    >>> from_bytes(content)["head"].tolist()
    [1.0, 1.0, 1.0]
    """
    try:
        return safetensors.numpy.save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()})
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TensorError(f"tensors cannot be sent: {error}") from None


def from_bytes(content: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of a safetensors file. Raises TensorError."""
    try:
        # Bytes from outside: kinds of number that NumPy lacks are a KeyError there.
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TensorError(f"tensors cannot be read: {error}") from None


def in_group(group: str, tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return tensors under the names `GROUP/NAME`, for a file or message of several groups."""
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def group_of(group: str, tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of one group, as `in_group` was given them."""
    start = f"{group}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def load_tensors(path: Path) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, object]]:
    """Read tensors and metadata written by `save_tensors`.

    Raises:
        RunError: the file is missing, not a whole safetensors file, or holds other than what was written.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iteration there)
        written = header.pop(CONTENT, None)
        if written is not None and written != _content_sha256(tensors, header):
            raise RunError(f"{path}: damaged: it holds other than what was written; bring it back from a backup")
        return tensors, {key: json.loads(value) for key, value in header.items()}
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path}: not a whole safetensors file: {error}") from None


def _content_sha256(tensors: Mapping[str, npt.NDArray[np.generic]], header: Mapping[str, str]) -> str:
    """Return a SHA-256 over names, types, shapes and values of tensors, and over a header (64 hexadecimal digits)."""
    named = sorted(tensors.items())
    head = json.dumps([sorted(header.items()), [(name, array.dtype.str, array.shape) for name, array in named]])
    digest = hashlib.sha256(f"{len(head)}:{head}".encode("utf-8", "surrogatepass"))
    for _, array in named:
        digest.update(array.tobytes())
    return digest.hexdigest()
