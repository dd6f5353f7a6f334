"""Decoded images on disk: every picture is decoded once a machine, whatever the number of epochs and runs.

`ImageStore.build` brings the images of a data folder into the cache (files and layout:
`melfed.common.data.images.cache`) and `ImageStore.open` finds them again in milliseconds. Images that cannot be used
are listed, each with its reason.
"""

import hashlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from melfed.common.data.images.cache import CacheBuilder, CacheOutcome, ImageCache, Reading, Stamp
from melfed.common.data.images.containers import split_member
from melfed.common.data.images.decoder import (
    MAX_FILE_BYTES,
    TOO_LARGE,
    ImageProblem,
    MissingDecoder,
    Pixels,
    decode_bytes,
    read_file,
)
from melfed.common.data.images.duplicates import DuplicateGroup, find_duplicates, signature
from melfed.common.data.images.links import LinkRule, Links
from melfed.common.errors import DataError
from melfed.common.progress import Progress

# Images decoded between two commits: what a killed build has to do again at most.
_CHUNK: Final = 128
# Each worker may hold one fully decoded original.
_MOST_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that is not used, and the one line that says why."""

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class _File:
    """One image found in the data folder; `path` is free of symbolic links."""

    image: str
    path: str
    stamp: Stamp


@dataclass(frozen=True)
class _Survey:
    """Where some images of one data folder stand, told from file sizes, file times and the index."""

    cache: ImageCache
    images: tuple[str, ...]
    outcomes: Mapping[str, CacheOutcome]
    unusable: Mapping[str, str]
    pending: Sequence[_File]
    unreadable: Sequence[_File]


def default_cache() -> Path:
    """The cache folder of this user: `MELFED_CACHE`, else `XDG_CACHE_HOME/melfed`, else `~/.cache/melfed`."""
    if chosen := os.environ.get("MELFED_CACHE"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "melfed"


class ImageStore:
    """The decoded images of one data folder at one size, read from the cache through a memory map.

    Made by `build` or `open`; can be pickled (the map is opened again on arrival) and read by many processes.

    Attributes:
        left_out: the images that cannot be used, in the order asked for.
        digests: SHA-256 of the file content by image name, of all files that could be read, left out or not.
    """

    def __init__(
        self, cache: ImageCache, slots: Mapping[str, int], digests: Mapping[str, str], left_out: Sequence[LeftOut]
    ) -> None:
        self.left_out = tuple(left_out)
        self.digests = digests
        self._cache, self._slots = cache, slots
        self._pixels = cache.records(max(slots.values(), default=-1) + 1)

    @classmethod
    def open(cls, cache: Path, root: Path, images: Sequence[str], size: int, links: Links = "inside") -> "ImageStore":
        """Open a store whose images were all decoded before; nothing is hashed, files are only looked at.

        Args:
            cache: the cache folder, see `default_cache`.
            root: the data folder.
            images: POSIX paths relative to `root`.
            size: side of the decoded squares in pixels.
            links: which symbolic links are followed (`melfed.common.data.images.links`).

        Raises:
            DataError: the data folder is missing, or an image is new or changed since the cache was built.
            StorageError: the cache cannot be read.
        """
        survey = _survey(cache, root, images, size, links)
        if survey.pending:
            raise DataError(
                f"{root}: {len(survey.pending)} of {len(survey.images)} images are not in the cache {cache} "
                f"({survey.pending[0].image} first): build the cache again"
            )
        return cls._of(survey)

    @classmethod
    def build(
        cls,
        cache: Path,
        root: Path,
        images: Sequence[str],
        size: int,
        *,
        workers: int | None = None,
        progress: Progress | None = None,
        links: Links = "inside",
    ) -> "ImageStore":
        """Decode the images that the cache does not hold yet, in threads, and open the store.

        An image that cannot be used is listed in `left_out`, and the build goes on. See `open` for the arguments;
        `workers` defaults to the number of cores (at most 8), `progress` is called with (done, total) images.

        Raises:
            DataError: the data folder is missing.
            StorageError: the cache cannot be written, or others have been building it for `LOCK_SECONDS`.
        """
        survey = _survey(cache, root, images, size, links)
        if survey.pending or survey.unreadable:
            with survey.cache.building() as builder:
                # Another process may have done it while this one waited.
                survey = _survey(cache, root, images, size, links)
                _decode_all(survey, builder, workers or min(os.cpu_count() or 1, _MOST_WORKERS), progress)
            survey = _survey(cache, root, images, size, links)
        return cls._of(survey)

    @classmethod
    def _of(cls, survey: _Survey) -> "ImageStore":
        seen = survey.outcomes
        slots = {image: outcome.slot for image, outcome in seen.items() if outcome.slot is not None}
        digests = {image: outcome.sha256 for image, outcome in seen.items() if outcome.sha256 is not None}
        problems = {image: outcome.problem for image, outcome in seen.items() if outcome.problem is not None}
        problems |= survey.unusable
        problems |= {file.image: "changed while it was read: run again" for file in survey.pending}
        left_out = [LeftOut(image, problems[image]) for image in survey.images if image in problems]
        return cls(survey.cache, slots, digests, left_out)

    def __reduce__(self) -> tuple[object, ...]:
        return ImageStore, (self._cache, self._slots, self.digests, self.left_out)

    def __contains__(self, image: str) -> bool:
        return image in self._slots

    def batch(self, images: Sequence[str]) -> Pixels:
        """Read images into memory.

        Returns:
            uint8 array of shape (len(images), size, size, 3), RGB; a copy.

        Raises:
            DataError: an image is not in the store, or was left out.
        """
        try:
            slots = [self._slots[image] for image in images]
        except KeyError as error:
            raise DataError(f"{error.args[0]} is not among the decoded images: see those left out") from error
        return np.asarray(self._pixels[np.array(slots, dtype=np.intp)])

    def duplicates(self) -> tuple[DuplicateGroup, ...]:
        """Group the images that are one picture (`melfed.common.data.images.duplicates`); signatures are computed once
        and kept.

        Raises:
            StorageError: the cache cannot be written.
        """
        digests = {image: self.digests[image] for image in self._slots}
        known = self._cache.signatures()
        missing = {digest: self._slots[image] for image, digest in digests.items() if digest not in known}
        if missing:
            fresh = {digest: signature(np.asarray(self._pixels[slot])) for digest, slot in missing.items()}
            with self._cache.building() as builder:
                builder.commit_signatures(fresh)
            known |= fresh
        return find_duplicates(digests, {image: known[digest] for image, digest in digests.items()})


def _survey(cache: Path, root: Path, images: Sequence[str], size: int, links: Links) -> _Survey:
    real_root = os.path.realpath(root)
    if not Path(real_root).is_dir():
        raise DataError(f"{root}: no such data folder")
    names = tuple(dict.fromkeys(images))
    files, unusable = _find_files(real_root, names, LinkRule(real_root, links))
    store = ImageCache(cache, size)
    known = store.outcomes([file.path for file in files])
    outcomes: dict[str, CacheOutcome] = {}
    pending: list[_File] = []
    for file in files:
        stamp, outcome = known.get(file.path, (None, None))
        if outcome is None or stamp != file.stamp:
            pending.append(file)
        else:
            outcomes[file.image] = outcome
    # What could not be read the last time may be readable now; content that could not be decoded never will be.
    unreadable = [file for file in files if file.image in outcomes and outcomes[file.image].sha256 is None]
    return _Survey(store, names, outcomes, unusable, pending, unreadable)


def _find_files(root: str, images: Sequence[str], rule: LinkRule) -> tuple[list[_File], dict[str, str]]:
    """The images that are regular files inside the root, or lie in one, and the reason for each that is not.

    The folder of an image is resolved once for all images in it: ten thousand calls of realpath would take longer
    than all the rest of opening a store.
    """
    files: list[_File] = []
    unusable: dict[str, str] = {}
    real: dict[str, str] = {}
    inside = f"{root.rstrip('/')}/"
    for image in images:
        file, member = split_member(f"{inside}{image}")
        folder, name = os.path.split(file)
        try:
            if folder not in real:
                real[folder] = os.path.realpath(folder).rstrip("/")
            path = f"{real[folder]}/{name}"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = os.path.realpath(path, strict=True)
                status = os.lstat(path)
        except (OSError, ValueError) as error:
            unusable[image] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        if not path.startswith(inside) and rule.refusal(path):
            unusable[image] = "leads out of the data folder"
        elif not stat.S_ISREG(status.st_mode):
            unusable[image] = "not a file"
        elif member is None and status.st_size > MAX_FILE_BYTES:
            unusable[image] = TOO_LARGE
        else:
            path = path if member is None else f"{path}/{member}"
            files.append(_File(image, path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns)))
    return files, unusable


def _decode_all(survey: _Survey, builder: CacheBuilder, workers: int, progress: Progress | None) -> None:
    """Bring all files of the survey that need it into the cache."""
    todo = [*survey.pending, *survey.unreadable]
    total = len(survey.images)
    done = total - len(todo)
    read = partial(_read, size=survey.cache.size, known=builder.known)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(todo), _CHUNK):
            readings = []
            for reading in pool.map(read, todo[start : start + _CHUNK]):
                readings.append(reading)
                done += 1
                if progress is not None:
                    progress(done, total)
            builder.commit(readings)


def _read(file: _File, size: int, known: Collection[str]) -> Reading:
    """Read a file, and decode it unless its content is known."""
    try:
        data = read_file(Path(file.path))
    except ImageProblem as problem:
        return Reading(file.path, file.stamp, None, None, problem.reason)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in known:
        return Reading(file.path, file.stamp, sha256, None, None)
    try:
        return Reading(file.path, file.stamp, sha256, decode_bytes(data, size, file.image), None)
    except MissingDecoder as problem:  # kept of the file, which is read again at the next build, and not of its content
        return Reading(file.path, file.stamp, None, None, problem.reason)
    except ImageProblem as problem:
        return Reading(file.path, file.stamp, sha256, None, problem.reason)
