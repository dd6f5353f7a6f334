"""Rows of numbers on disk, each for one image and view, that survive whatever happens to a process or a disk.

One pair of files for a list of images and views, for the owner only, since features tell of patients:

- `KEY.f32`: the rows, float32, one after the other;
- `KEY.index`: the shape of a row, then for each row its image, its view, and a checksum of these and of the numbers.

A row counts only while its checksum holds, so nothing needs to reach the disk in any order: a process killed at any
point, a power cut or a damaged disk leaves rows that are computed again. The index is locked while its files are looked
at or filled. The folder is bounded: the pairs that were not used for longest make room for new ones.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from melfed.common.errors import StorageError
from melfed.common.locks import HeldError, lock
from melfed.common.process.memory import no_memory

Features = npt.NDArray[np.float32]
Rows = npt.NDArray[np.void]
Numbers = npt.NDArray[np.int64]
Shape = tuple[int, ...]

ROW: Final = np.dtype([("image", "V32"), ("view", "<u4"), ("checksum", "<u8")])
"""What the index says of a row: SHA-256 of the image, number of the view, checksum (0: not stored)."""

KEY_DIGITS: Final = 32
_HEADER_BYTES: Final = 64
_DATA, _INDEX, _LOCK = ".f32", ".index", "lock"


class FeatureFiles:
    """The two files of one list of rows; but for `held`, its methods are for those who hold it.

    Every method raises StorageError where the disk fails.

    Attributes:
        name: of both files, without ending.
        rows: image and view of each row, and its checksum as far as it is stored.
        shape: of one row; None where there are no files that belong together.
    """

    def __init__(self, folder: Path, space: str, rows: Rows) -> None:
        """Name the files.

        Args:
            folder: of these files and others of their kind, and of nothing else; made when it is first needed.
            space: digest of what all rows depend on; lists of one space share rows.
            rows: image and view of each row, without checksums, shape (rows,) of `ROW`.
        """
        self.folder, self.rows = folder, rows
        self.name = f"{space}-{hashlib.sha256(rows.tobytes()).hexdigest()[:KEY_DIGITS]}"
        self.shape: Shape | None = None
        self._space = space
        self._data, self._index = folder / f"{self.name}{_DATA}", folder / f"{self.name}{_INDEX}"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait until nobody else holds these files, then hold them; note that they were used, and read the index."""
        with contextlib.ExitStack() as stack:
            with _storage_errors(self.folder):
                self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.folder.mkdir(mode=0o700, exist_ok=True)
                self._descriptor = stack.enter_context(lock(self._index, math.inf)).descriptor
                os.utime(self._descriptor)
                shape, rows = _read_index(self._index)
                sizes = len(self.rows), len(self.rows) * _row_bytes(shape)
                if shape and self._data.exists() and (len(rows), self._data.stat().st_size) == sizes:
                    self.shape, self.rows["checksum"] = shape, rows["checksum"]
            yield

    def size(self, shape: Shape) -> int:
        """Return the size of both files with rows of a shape."""
        return _HEADER_BYTES + len(self.rows) * (ROW.itemsize + _row_bytes(shape))

    def stamp(self) -> Shape:
        """Return what changes when anybody writes to the data, or changes the shape."""
        with _storage_errors(self.folder):
            status = self._data.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns, *(self.shape or ())

    def create(self, shape: Shape, limit: int) -> bool:
        """Make both files, with no row stored; whoever still reads former ones keeps them.

        Others of the folder are deleted until all fit into `limit` bytes. False where that is not possible.
        """
        with _storage_errors(self.folder), lock(self.folder / _LOCK, math.inf):
            if not self._make_room(limit - self.size(shape)):
                return False
            self._data.unlink(missing_ok=True)
            with os.fdopen(os.open(self._data, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.truncate(len(self.rows) * _row_bytes(shape))
            self.shape, self.rows["checksum"] = shape, 0
            os.ftruncate(self._descriptor, 0)
            header = " ".join(map(str, shape)).encode().ljust(_HEADER_BYTES)
            _write(self._descriptor, 0, header + self.rows.tobytes())
            return True

    def stored(self) -> Features:
        """Map the data, shape (rows, ...), read-only."""
        with _storage_errors(self.folder):
            return np.memmap(self._data, np.float32, "r", shape=(len(self.rows), *(self.shape or ())))

    def verify(self) -> None:
        """Forget the checksums that do not hold, and the shape where none does."""
        stored = self.stored() if self.shape else ()
        for number in np.flatnonzero(self.rows["checksum"]):
            if self.rows[number]["checksum"] != _checksum(self.rows[number], stored[number]):
                self.rows[number]["checksum"] = 0
        if not self.rows["checksum"].any():
            self.shape = None

    def missing(self) -> Numbers:
        """Return the numbers of the rows that are not stored."""
        return np.flatnonzero(self.rows["checksum"] == 0)

    def write(self, numbers: Numbers, values: Features) -> None:
        """Store some rows, values of shape (k, ...)."""
        with _storage_errors(self.folder), self._data.open("r+b", buffering=0) as file:
            for number, value in zip(numbers.tolist(), values, strict=True):
                self.rows[number]["checksum"] = _checksum(self.rows[number], value)
                _write(file.fileno(), number * value.nbytes, value.tobytes())
                _write(self._descriptor, _HEADER_BYTES + number * ROW.itemsize, self.rows[number].tobytes())

    def copy_known(self) -> None:
        """Store the missing rows that other lists of the space have."""
        wanted: dict[bytes, list[int]] = {}
        for number in self.missing().tolist():
            wanted.setdefault(_identity(self.rows[number]), []).append(number)
        for index in sorted(self.folder.glob(f"{self._space}-*{_INDEX}")) if wanted else ():
            if not wanted:
                return
            for identity, value in self._stored_elsewhere(index, wanted):
                numbers = np.array(wanted.pop(identity))
                self.write(numbers, np.broadcast_to(value, (len(numbers), *value.shape)))

    def _stored_elsewhere(self, index: Path, wanted: Container[bytes]) -> Iterator[tuple[bytes, Features]]:
        """Read the wanted rows of another pair. It need not be held nor whole: a row counts if its checksum holds."""
        with _storage_errors(self.folder), contextlib.suppress(FileNotFoundError):
            shape, rows = _read_index(index)
            if index == self._index:
                return
            size = _row_bytes(shape)
            with index.with_suffix(_DATA).open("rb") as file:
                for position in np.flatnonzero(rows["checksum"]).tolist():
                    row = rows[position]
                    if _identity(row) in wanted:
                        data = os.pread(file.fileno(), size, position * size)
                        value = np.frombuffer(data.ljust(size), np.float32).reshape(shape)
                        if _checksum(row, value) == row["checksum"]:
                            yield _identity(row), value

    def _make_room(self, room: int) -> bool:
        """Delete the pairs that were not used for longest until all others take at most `room` bytes.

        Pairs that somebody holds are left alone.
        """
        sizes: dict[str, int] = {}
        used: dict[str, int] = {}
        for path in self.folder.iterdir():
            if path.suffix in (_DATA, _INDEX) and path.stem != self.name:
                status = path.stat()
                sizes[path.stem] = sizes.get(path.stem, 0) + status.st_size
                used[path.stem] = max(used.get(path.stem, 0), status.st_mtime_ns)
        for name in sorted(used, key=used.__getitem__) if room >= 0 else ():
            if sum(sizes.values()) <= room:
                break
            index = self.folder / f"{name}{_INDEX}"
            with contextlib.suppress(HeldError), lock(index):
                index.with_suffix(_DATA).unlink(missing_ok=True)
                index.unlink()
                del sizes[name]
        return sum(sizes.values()) <= room


def _read_index(path: Path) -> tuple[Shape, Rows]:
    """Return shape and rows of an index; no shape and no rows where it is empty or damaged."""
    content = path.read_bytes()
    try:
        shape = tuple(int(length) for length in content[:_HEADER_BYTES].split())
        rows = np.frombuffer(content[_HEADER_BYTES:], ROW)
    except ValueError:
        return (), np.zeros(0, ROW)
    return shape if all(length > 0 for length in shape) else (), rows


def _row_bytes(shape: Shape) -> int:
    return math.prod(shape) * np.dtype(np.float32).itemsize


def _identity(row: np.void) -> bytes:
    identity: bytes = row["image"].tobytes() + row["view"].tobytes()
    return identity


def _checksum(row: np.void, value: Features) -> int:
    """Return a checksum, never 0, of a row's image, view, shape and numbers."""
    digest = hashlib.blake2b(_identity(row) + repr(value.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(value).data)
    return int.from_bytes(digest.digest(), "little") or 1


def _write(descriptor: int, place: int, content: bytes) -> None:
    """Write all of the content at a place of a file."""
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], place + written)


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk raises into one line."""
    try:
        yield
    except OSError as error:
        if reason := no_memory(error):
            raise StorageError(f"feature cache {folder}: cannot be mapped: {reason}") from error
        reason = error.strerror or str(error)
        advice = "free some space, or set MELFED_CACHE elsewhere"
        raise StorageError(f"feature cache {folder}: {reason}; {advice}") from error
