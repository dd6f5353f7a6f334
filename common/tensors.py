"""Named tensors that cross a boundary: what they must look like, and how they are kept in files."""

import hashlib
import json
import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from melfed.common.errors import MelfedError, RunError, StorageError
from melfed.common.files import atomic_write

CONTENT = "content_sha256"
"""In a file's header: SHA-256 of all else that is in it (files of melfed 0.1 have none)."""
_KINDS: Final = {
    **{"u8": "U64", "i8": "I64", "f8": "F64", "f4": "F32", "u4": "U32", "i4": "I32"},
    **{"f2": "F16", "u2": "U16", "i2": "I16", "i1": "I8", "u1": "U8", "b1": "BOOL"},
}
"""NumPy's types as safetensors names them, in the order in which their values stand in a file."""
_BLOCK: Final = 1 << 20
_KIND_OF: Final = {name: np.dtype(f"<{kind}") for kind, name in _KINDS.items()}
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
        if not is_finite(tensor):
            raise TensorError(f"tensor {name} holds values that are not finite")


def is_finite(tensor: npt.NDArray[np.generic]) -> bool:
    """Tell whether all values are finite; of a large tensor part by part, so that it takes no memory of its size."""
    flat = tensor.reshape(-1)
    return all(np.isfinite(flat[start : start + _BLOCK]).all() for start in range(0, flat.size, _BLOCK))


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
    plain = {name: _plain(tensor) for name, tensor in tensors.items()}
    header[CONTENT] = _content_sha256(plain, header)
    pieces = _pieces(plain, header)
    with atomic_write(path) as file:
        for piece in pieces:
            file.write(piece)


class PackedTensors(Mapping[str, npt.NDArray[np.generic]]):
    """The tensors of a safetensors file, which is read when somebody looks at one; whoever passes it on never does.

    Tensors are views of its bytes, as `views` says. Every look at it raises TensorError where the file is none.

    >>> passed = PackedTensors(to_bytes({"head": np.ones(3, np.float32)}))
    >>> to_bytes(passed) is passed.content
    True
    """

    def __init__(self, content: bytes | memoryview, names: Iterable[str] | None = None) -> None:
        """Take the file's bytes.

        Args:
            content: the bytes; a memoryview of a file that is mapped into memory will do.
            names: of all tensors, in the order in which they are gone through; None: that of the file.
        """
        self.content, self._names = content, None if names is None else list(names)

    def rest(self) -> None:
        """Take the content out of memory until it is looked at again, where it is that of a file."""
        if isinstance(self.content, memoryview) and isinstance(self.content.obj, mmap.mmap):
            self.content.obj.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def _read(self) -> dict[str, npt.NDArray[np.generic]]:
        return views(self.content)

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        self.rest()  # whoever goes through all has one at a time in memory
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read if self._names is None else self._names)

    def __len__(self) -> int:
        return len(self._read)


def packed_in(folder: Path, tensors: Mapping[str, npt.NDArray[np.generic]]) -> PackedTensors:
    """Return tensors packed in a file without a name, which is in memory as far as it is looked at.

    Args:
        folder: on whose disk it is.
        tensors: by name.

    Raises:
        StorageError: there is no space for it.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for piece in _pieces({name: _plain(tensor) for name, tensor in tensors.items()}, {}):
                file.write(piece)
            file.flush()
            return PackedTensors(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), tensors)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written: {error.strerror or error}; free space and try again"
        ) from None


def to_bytes(tensors: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Return tensors as one safetensors file. Raises TensorError where one is of no kind that has a place there.

    >>> content = to_bytes({"head": np.ones(3, np.float32)})
    >>> from_bytes(content)["head"].tolist()
    [1.0, 1.0, 1.0]
    """
    if isinstance(tensors, PackedTensors):
        return tensors.content if isinstance(tensors.content, bytes) else bytes(tensors.content)
    return b"".join(_pieces({name: _plain(tensor) for name, tensor in tensors.items()}, {}))


def from_bytes(content: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of a safetensors file. Raises TensorError."""
    try:
        # Bytes from outside: kinds of number that NumPy lacks are a KeyError there.
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TensorError(f"tensors cannot be read: {error}") from None


def views(content: bytes | memoryview) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of a safetensors file from outside as views of its bytes, which cannot be written to.

    `from_bytes` copies each of them. What this takes, the library takes as well, and with the same values (a test).

    Raises:
        TensorError: it is no such file, or holds a kind of number that NumPy lacks.

    >>> views(to_bytes({"head": np.ones(3, np.float32)}))["head"].tolist()
    [1.0, 1.0, 1.0]
    """
    return _viewed(memoryview(content))[0]


def _viewed(whole: memoryview) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    """Return the tensors of a file as `views` does, and what its header says beside them. Raises TensorError."""
    start = 8 + int.from_bytes(whole[:8], "little")
    if not 8 < start <= len(whole):
        raise TensorError("tensors cannot be read: no header")
    try:
        header = json.loads(str(whole[8:start], "utf-8"))
        about = dict(header.pop("__metadata__", {}))
        places = sorted((*_place(entry), name) for name, entry in header.items())
        return _at(whole[start:], places), about
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise TensorError(f"tensors cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _place(entry: dict[str, Any]) -> tuple[int, int, str, tuple[int, ...]]:
    """Return where a header's entry says that a tensor begins and ends, its kind and its shape; raises as `views`."""
    (start, end), kind, shape = entry["data_offsets"], entry["dtype"], entry["shape"]
    numbers = (start, end, *shape)
    if not all(type(number) is int and number >= 0 for number in numbers) or kind not in _KIND_OF:
        raise ValueError("an entry is of no known kind or shape")
    if end - start != math.prod(shape) * _KIND_OF[kind].itemsize:
        raise ValueError("an entry's bytes are not those of its shape")
    return start, end, kind, tuple(shape)


def _at(
    values: memoryview, places: list[tuple[int, int, str, tuple[int, ...], str]]
) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors at these places, which must lie one behind the other and fill all; raises as `views`."""
    found, last = dict[str, npt.NDArray[np.generic]](), 0
    for start, end, kind, shape, name in places:
        if start != last:
            raise ValueError("entries overlap, or leave a gap")
        last = end
        found[name] = np.frombuffer(values[start:end], _KIND_OF[kind]).reshape(shape)
    if last != len(values):
        raise ValueError("entries do not fill the file")
    return found


def in_group(group: str, tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return tensors under the names `GROUP/NAME`, for a file or message of several groups."""
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def group_of(group: str, tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of one group, as `in_group` was given them."""
    start = f"{group}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def load_tensors(
    path: Path, *, summed: bool = False, mapped: bool = False
) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, object]]:
    """Read tensors and metadata written by `save_tensors`.

    Args:
        path: the file.
        summed: whether it must have a SHA-256 of its content; else one of melfed 0.1, without, is read as well.
        mapped: whether tensors are views of the file, which takes no memory that the machine could not take back; they
            outlive the file's name, but not a change of its content.

    Raises:
        RunError: the file is missing, not a whole safetensors file, or holds other than what was written.
    """
    try:
        tensors, header = _mapped(path) if mapped else _read(path)
        written = header.pop(CONTENT, None)
        if (summed or written is not None) and written != _content_sha256(tensors, header):
            raise RunError(f"{path}: damaged: it holds other than what was written; bring it back from a backup")
        return tensors, {key: json.loads(value) for key, value in header.items()}
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (safetensors.SafetensorError, TensorError, OSError, ValueError) as error:
        raise RunError(f"{path}: not a whole safetensors file: {error}") from None


def _read(path: Path) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iteration there)
        return tensors, dict(file.metadata() or {})


def _mapped(path: Path) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    with path.open("rb") as file:
        return _viewed(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _plain(tensor: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return a tensor as its bytes stand in a file: in C order, little-endian; itself where it is so already."""
    array = np.asarray(tensor)
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _pieces(tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Return the parts of a safetensors file, one after the other; values as they lie in memory, which no library does.

    The format, and the order, are those of the library (tests compare the bytes): eight bytes with the length of a JSON
    header, this, padded to a multiple of eight, and all values, by type (the widest first) and then by name.

    Args:
        tensors: as `_plain` makes them.
        metadata: text by name.

    Raises:
        TensorError: a tensor is of no kind that has a place there.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end, values = 0, list[bytes | memoryview]()
    for name, tensor in tensors.items():
        if tensor.dtype.str[1:] not in _KINDS or name == "__metadata__":
            raise TensorError(f"tensors cannot be sent: {name[:200]} is {tensor.dtype}")
    place = {kind: index for index, kind in enumerate(_KINDS)}
    for name, tensor in sorted(tensors.items(), key=lambda item: (place[item[1].dtype.str[1:]], item[0])):
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _KINDS[tensor.dtype.str[1:]],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        values.append(_memory(tensor))
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TensorError(f"tensors cannot be sent: {error.reason}") from None
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *values]


def _memory(tensor: npt.NDArray[np.generic]) -> bytes | memoryview:
    """Return the bytes of a tensor in C order, without a copy."""
    return np.ascontiguousarray(tensor).data.cast("B") if tensor.size else b""


def _content_sha256(tensors: Mapping[str, npt.NDArray[np.generic]], header: Mapping[str, str]) -> str:
    """Return a SHA-256 over names, types, shapes and values of tensors, and over a header (64 hexadecimal digits)."""
    named = sorted(tensors.items())
    head = json.dumps([sorted(header.items()), [(name, array.dtype.str, array.shape) for name, array in named]])
    digest = hashlib.sha256(f"{len(head)}:{head}".encode("utf-8", "surrogatepass"))
    for _, array in named:
        digest.update(_memory(array))
    return digest.hexdigest()
