"""The files behind `melfed.common.data.images.store`: pixels in fixed-size records, an index in SQLite, and a lock.

One folder an image size, `CACHE/images/SIZEpx-vN` (N: `DECODER_VERSION`), for its owner only, as it holds patients'
images:

- `pixels.u8`: records of size × size × 3 bytes, one after the other;
- `index.sqlite`: which record (slot) or problem belongs to which SHA-256 of file content, and which SHA-256 to which
  path as long as the file's size and times stay as they were; and signatures of pictures
  (`melfed.common.data.images.duplicates`);
- `lock`: held by the one process that builds.

A slot enters the index after its pixels are on the disk, so a process killed at any point leaves a usable cache:
pixels behind the last slot of the index are overwritten by the next build. Nothing is ever evicted; to free the space,
delete the folder while nothing runs.
"""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from melfed.common.data.images.decoder import DECODER_VERSION, Pixels
from melfed.common.errors import StorageError
from melfed.common.locks import HeldError, lock
from melfed.common.process.memory import no_memory

LOCK_SECONDS: Final = 600.0
"""How long a build waits for another process that builds the same cache."""

Stamp = tuple[int, int, int]
"""Size in bytes, time of the last change of content and of the entry in nanoseconds: same stamp, same content."""

_SCHEMA: Final = """
CREATE TABLE images (sha256 TEXT PRIMARY KEY, slot INTEGER UNIQUE, problem TEXT) WITHOUT ROWID;
CREATE TABLE signatures (sha256 TEXT PRIMARY KEY, signature BLOB) WITHOUT ROWID;
CREATE TABLE files (
    path BLOB PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT, problem TEXT
) WITHOUT ROWID;
"""
_LOOKUP: Final = """
SELECT path, bytes, mtime_ns, ctime_ns, sha256, slot, coalesce(files.problem, images.problem)
FROM files LEFT JOIN images USING (sha256) WHERE path = ?
"""
# A builder commits in milliseconds; a reader waits for it this many seconds at most.
_BUSY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class CacheOutcome:
    """What the index says of one file: its pixels' slot, the problem of its content, or that it was not readable."""

    sha256: str | None
    slot: int | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One file as it was read; neither pixels nor problem where its content is in the index already."""

    path: str
    stamp: Stamp
    sha256: str | None
    pixels: Pixels | None
    problem: str | None


class ImageCache:
    """The folder of decoded images of one size (pixels) below a cache folder. Reading needs no lock.

    Every method raises StorageError where the disk or the index fails.
    """

    def __init__(self, cache: Path, size: int) -> None:
        self.folder = cache.absolute() / "images" / f"{size}px-v{DECODER_VERSION}"
        self.size = size

    def records(self, slots: int) -> Pixels:
        """Map the first `slots` records: uint8 of shape (slots, size, size, 3), read-only."""
        if slots == 0:
            return np.empty((0, self.size, self.size, 3), dtype=np.uint8)
        with storage_errors(self.folder):
            status = self._pixels.stat()
            return _mapped(self._pixels, self.size, (status.st_dev, status.st_ino, status.st_size))[:slots]

    def outcomes(self, paths: Sequence[str]) -> dict[str, tuple[Stamp, CacheOutcome]]:
        """What the index knows of some files, by path, without slots whose pixels are gone.

        Each file is looked up by itself: a clinic with few images in a large folder does not read all of its index.
        """
        with storage_errors(self.folder):
            if not self._index.exists():
                return {}
            index = self._connect()
        with storage_errors(self.folder), contextlib.closing(index):
            index.execute("BEGIN")  # one transaction for all of them
            found = [index.execute(_LOOKUP, (os.fsencode(path),)).fetchone() for path in paths]
            # Looked at after the index was read: a build may be appending.
            slots = self._slots_on_disk()
        return {
            os.fsdecode(path): ((length, mtime, ctime), CacheOutcome(sha256, slot, problem))
            for path, length, mtime, ctime, sha256, slot, problem in filter(None, found)
            if problem is not None or (slot is not None and slot < slots)
        }

    def signatures(self) -> dict[str, bytes]:
        """What is stored of pictures' signatures, by the SHA-256 of the file's content."""
        with storage_errors(self.folder):
            if not self._index.exists():
                return {}
            with contextlib.closing(self._connect()) as index:
                return dict(index.execute("SELECT sha256, signature FROM signatures").fetchall())

    @contextlib.contextmanager
    def building(self) -> Iterator["CacheBuilder"]:
        """Hold the cache for writing: one process at a time, until it ends, however it ends.

        Raises:
            StorageError: others have held it for `LOCK_SECONDS`, or the folder cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.parents[1].mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(self.folder):
            with storage_errors(self.folder):
                _make_index(self._index)
                index = self._connect()
                slots = self._slots_on_disk()
            with contextlib.closing(index):
                yield CacheBuilder(index, self._pixels, slots, self.size)

    @property
    def _pixels(self) -> Path:
        return self.folder / "pixels.u8"

    @property
    def _index(self) -> Path:
        return self.folder / "index.sqlite"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._index.as_uri()}?mode=rw", timeout=_BUSY_SECONDS, uri=True)

    def _slots_on_disk(self) -> int:
        pixels = self._pixels
        return pixels.stat().st_size // (self.size * self.size * 3) if pixels.exists() else 0


class CacheBuilder:
    """Writes to a cache that `ImageCache.building` holds.

    Attributes:
        known: SHA-256 of all content that is in the index.
    """

    def __init__(self, index: sqlite3.Connection, pixels: Path, slots_on_disk: int, size: int) -> None:
        self._connection, self._pixels, self._size = index, pixels, size
        with storage_errors(pixels.parent), index:
            index.execute("DELETE FROM images WHERE slot >= ?", (slots_on_disk,))
            self.known: set[str] = {sha256 for (sha256,) in index.execute("SELECT sha256 FROM images")}
            (self._slots,) = index.execute("SELECT coalesce(max(slot) + 1, 0) FROM images").fetchone()

    def commit(self, readings: Sequence[Reading]) -> None:
        """Append the pixels of new content and flush them, then name them in the index."""
        fresh = {reading.sha256: reading for reading in readings if reading.sha256 and reading.sha256 not in self.known}
        decoded = {sha256: reading.pixels for sha256, reading in fresh.items() if reading.pixels is not None}
        slots = {sha256: self._slots + position for position, sha256 in enumerate(decoded)}
        with storage_errors(self._pixels.parent):
            self._append(list(decoded.values()))
            with self._connection as index:
                index.executemany(
                    "INSERT INTO images VALUES (?, ?, ?)",
                    [(sha256, slots.get(sha256), reading.problem) for sha256, reading in fresh.items()],
                )
                index.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (os.fsencode(r.path), *r.stamp, r.sha256, r.problem if r.sha256 is None else None)
                        for r in readings
                    ],
                )
        self._slots += len(slots)
        self.known.update(fresh)

    def commit_signatures(self, signatures: Mapping[str, bytes]) -> None:
        """Store signatures by the SHA-256 of the file's content."""
        with storage_errors(self._pixels.parent), self._connection as index:
            index.executemany("INSERT OR REPLACE INTO signatures VALUES (?, ?)", list(signatures.items()))

    def _append(self, records: Sequence[Pixels]) -> None:
        if not records:
            return
        with os.fdopen(os.open(self._pixels, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.seek(self._slots * self._size * self._size * 3)
            for record in records:
                file.write(record.tobytes())
            file.flush()
            os.fsync(file.fileno())


@functools.lru_cache(maxsize=8)
def _mapped(pixels: Path, size: int, identity: tuple[int, int, int]) -> Pixels:
    """Map all records of a file: once a process, since each map holds a file open, and clinics may be thousands.

    Args:
        pixels: the file.
        size: of an image.
        identity: device, inode and size in bytes; another file, or more records, are another map.
    """
    slots = identity[2] // (size * size * 3)
    return np.memmap(pixels, dtype=np.uint8, mode="r", shape=(slots, size, size, 3))


def _make_index(final: Path) -> None:
    """Create the index under another name, so that no reader ever meets one without tables."""
    if final.exists():
        return
    draft = final.with_name("index.sqlite.new")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    with contextlib.closing(sqlite3.connect(draft)) as index:
        index.executescript(_SCHEMA)
    draft.replace(final)


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk and SQLite raise into one line."""
    try:
        yield
    except OSError as error:
        if reason := no_memory(error):
            raise StorageError(f"image cache {folder}: cannot be mapped: {reason}") from error
        reason = error.strerror or str(error)
        raise StorageError(f"image cache {folder}: {reason}; free some space, or set MELFED_CACHE elsewhere") from error
    except sqlite3.Error as error:
        raise StorageError(f"image cache {folder}: {error}; free some space, or delete the folder") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the build lock of a cache folder; the system releases it when the process ends, however it ends."""
    with contextlib.ExitStack() as stack:
        with storage_errors(folder):
            try:
                stack.enter_context(lock(folder / "lock", LOCK_SECONDS))
            except HeldError as holder:
                raise StorageError(
                    f"image cache {folder}: {holder} has been building it for {LOCK_SECONDS:.0f} s; "
                    "wait for it, or set MELFED_CACHE elsewhere"
                ) from None
        yield
