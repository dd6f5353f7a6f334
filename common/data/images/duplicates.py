"""One picture under several names: equal bytes, or the same photograph saved, resized or coloured anew.

A picture's signature is its perceptual hash (256 bits, `imagehash.phash`) and 16 × 16 grey values. Two pictures are the
same photograph where their hashes are near and their grey values go together. On all 10,015 images of HAM10000 that
finds 115 pairs, 114 of them of one lesion and the other one picture in two colours; on 6,000 of other ISIC sources it
finds all pairs known there.

Which patient a picture is of plays no part: a picture of two patients is what people must hear of.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from melfed.common.data.records import LesionRecord

HASH_SIDE: Final = 16
GREY_SIDE: Final = 16
HASH_BYTES: Final = HASH_SIDE**2 // 8
MOST_BITS: Final = 40
"""Bits in which the hashes of one photograph differ at most."""
LEAST_CORRELATION: Final = 0.98
"""Correlation of the grey values of one photograph, at least."""
FLAT: Final = 2.0
"""Grey values whose standard deviation is below this show nothing that could be compared."""
ALL_PAIRS: Final = 20_000
"""Up to so many pictures each is compared with each; above, only those that share 16 neighbouring bits of the hash,
which finds all pairs that differ in fewer than 16 bits, and most others."""

_BLOCK: Final = 256
_WORDS: Final = HASH_BYTES // 8
_BANDS: Final = HASH_BYTES // 2

Pairs = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that are one picture.

    Attributes:
        images: their names, sorted.
        identical: whether all are the same bytes.
    """

    images: tuple[str, ...]
    identical: bool


@dataclass(frozen=True, slots=True)
class DuplicateCounts:
    """What is found among some records; each group is counted wherever it fits.

    Attributes:
        groups: groups of images that are one picture.
        images: images in them.
        identical: groups of equal bytes.
        across_patients: groups whose images the table gives to several patients.
        across_sources: groups with images of several sources.
        across_targets: groups that are labelled both ways.
    """

    groups: int
    images: int
    identical: int
    across_patients: int
    across_sources: int
    across_targets: int

    def words(self) -> str | None:
        """One line for people, without any name; None where there is no such group."""
        if not self.groups:
            return None
        kinds = {
            "of equal bytes": self.identical,
            "of several patients": self.across_patients,
            "of several sources": self.across_sources,
            "with different targets": self.across_targets,
        }
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        pictures = "picture" if self.groups == 1 else "pictures"
        text = f"{self.images} images are {self.groups} {pictures} under several names"
        return f"{text} ({listed})" if listed else text


def signature(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The signature of a decoded picture, of 288 bytes; none (empty) where it shows nothing to compare.

    Args:
        pixels: uint8 (size, size, 3), RGB.
    """
    import imagehash  # with scipy it takes a while to load

    picture = Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX))
    if grey.std() < FLAT:
        return b""
    return np.packbits(imagehash.phash(picture, hash_size=HASH_SIDE).hash).tobytes() + grey.tobytes()


def find_duplicates(digests: Mapping[str, str], signatures: Mapping[str, bytes]) -> tuple[DuplicateGroup, ...]:
    """Group the images that are one picture; the order of neither argument plays a part.

    Args:
        digests: SHA-256 of the file's content, by image.
        signatures: see `signature`, by image; images without one are compared by their content alone.

    Returns:
        Groups of two images or more, by their first image.
    """
    images = sorted(digests.keys() | signatures.keys())
    sets = _Sets(images)
    by_digest: dict[str, str] = {}
    for image in images:
        if (digest := digests.get(image)) is not None:
            sets.join(image, by_digest.setdefault(digest, image))
    # Equal content needs no second comparison.
    once = [
        image for image in images if signatures.get(image) and by_digest.get(digests.get(image, ""), image) == image
    ]
    for first, second in _near(once, signatures):
        sets.join(first, second)
    return tuple(
        DuplicateGroup(tuple(group), len({digests.get(image, image) for image in group}) == 1)
        for group in sets.groups()
    )


def count_duplicates(records: Sequence[LesionRecord], groups: Iterable[DuplicateGroup]) -> DuplicateCounts:
    """Count the groups among some records; images that are not among them are left out."""
    by_image = {record.image: record for record in records}
    counts: dict[str, int] = defaultdict(int)
    for group in groups:
        members = [by_image[image] for image in group.images if image in by_image]
        if len(members) < 2:
            continue
        counts["groups"] += 1
        counts["images"] += len(members)
        counts["identical"] += group.identical
        counts["across_patients"] += len({record.patient_id for record in members} - {None}) > 1
        counts["across_sources"] += len({record.source for record in members}) > 1
        counts["across_targets"] += len({record.target for record in members}) > 1
    return DuplicateCounts(**{field.name: counts[field.name] for field in dataclasses.fields(DuplicateCounts)})


def with_duplicates(records: Sequence[LesionRecord], groups: Iterable[DuplicateGroup]) -> tuple[LesionRecord, ...]:
    """Return the records with found duplicates in one duplicate group each, joined to those that the table names.

    For studies without privacy, whose splits must not tear a picture. A private study must not use it: whom a patient
    is grouped with would depend on other patients' pictures.
    """
    named = {record.image: f"table:{record.dup_group}" for record in records if record.dup_group is not None}
    images = {record.image for record in records}
    sets = _Sets(sorted(images | set(named.values())))
    for image, name in named.items():
        sets.join(image, name)
    for group in groups:
        first, *others = [image for image in group.images if image in images] or [""]
        for other in others:
            sets.join(first, other)
    names = {image: members for members in sets.groups() for image in members}
    return tuple(
        record
        if record.image not in names
        else dataclasses.replace(record, dup_group=_name(names[record.image], images))
        for record in records
    )


def _name(members: Sequence[str], images: set[str]) -> str:
    """The name of a group: the smallest that the table gives to one of it, else its first image."""
    given = [member.removeprefix("table:") for member in members if member not in images]
    return min(given) if given else members[0]


def _near(images: Sequence[str], signatures: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Pairs of images that are the same photograph."""
    if len(images) < 2:
        return
    table = np.frombuffer(b"".join(signatures[image] for image in images), np.uint8).reshape(len(images), -1)
    hashes = np.ascontiguousarray(table[:, :HASH_BYTES])
    grey = table[:, HASH_BYTES:].astype(np.float32)
    grey -= grey.mean(axis=1, keepdims=True)
    grey /= np.linalg.norm(grey, axis=1, keepdims=True)
    for first, second in _every_pair(hashes) if len(images) <= ALL_PAIRS else _likely_pairs(hashes):
        alike = np.einsum("ij,ij->i", grey[first], grey[second]) >= LEAST_CORRELATION
        yield from ((images[i], images[j]) for i, j in zip(first[alike], second[alike], strict=True))


def _every_pair(hashes: npt.NDArray[np.uint8]) -> Pairs:
    """All pairs of near hashes."""
    words = hashes.view(np.uint64)
    for start in range(0, len(words), _BLOCK):
        rest, block = words[start:], words[start : start + _BLOCK]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(_WORDS):
            distance += np.bitwise_count(block[:, word][:, None] ^ rest[None, :, word])
        first, second = np.nonzero(distance <= MOST_BITS)
        later = first < second
        yield start + first[later], start + second[later]


def _likely_pairs(hashes: npt.NDArray[np.uint8]) -> Pairs:
    """Pairs of near hashes that agree in at least one of 16 bands of 16 bits."""
    words, bands = hashes.view(np.uint64), hashes.view(np.uint16)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        ends = np.flatnonzero(np.diff(bands[order, band])) + 1
        for bucket in np.split(order, ends):
            for place in range(len(bucket) - 1):
                others = bucket[place + 1 :]
                distance = np.bitwise_count(words[bucket[place]] ^ words[others]).sum(axis=1)
                near = others[distance <= MOST_BITS]
                yield np.full(len(near), bucket[place]), near


class _Sets:
    """Disjoint sets of names, joined by pairs."""

    def __init__(self, names: Sequence[str]) -> None:
        self._parents = {name: name for name in names}

    def _top(self, name: str) -> str:
        parents = self._parents
        while (parent := parents[name]) != name:
            parents[name] = parents[parent]  # halve the path, so that long chains stay cheap
            name = parents[name]
        return name

    def join(self, one: str, other: str) -> None:
        low, high = sorted((self._top(one), self._top(other)))
        self._parents[high] = low

    def groups(self) -> list[list[str]]:
        """The sets of more than one name, sorted, by their first."""
        members: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._parents):
            members[self._top(name)].append(name)
        return [group for _, group in sorted(members.items()) if len(group) > 1]
