"""What is in a data folder: counts, gaps, unreadable files and duplicates, before anything is trained on it."""

import hashlib
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from melfed.common.data.images.decoder import ImageProblem, decode_bytes, read_file
from melfed.common.data.images.duplicates import DuplicateGroup, find_duplicates, signature
from melfed.common.data.records import LesionRecord, group_ids, group_kind
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.data.understood import TablePart, Understanding, counted, read_to_show, understand

_CHECK_SIZE = 64
"""Side in pixels to which images are decoded: a check reads the whole file whatever the size, and a signature needs no
more."""
_COLUMNS = ("diagnosis", "patient_id", "lesion_id", "age", "sex", "site")


class SourceCount(TablePart):
    """One clinic or data set; patients and lesions are those with a known id."""

    name: str
    images: int
    melanomas: int
    patients: int
    lesions: int
    groups: int


class Ages(TablePart):
    """Ages in years over images; None where none is known."""

    known: int
    minimum: float | None
    median: float | None
    maximum: float | None
    decades: dict[str, int]
    """Images by decade, `0-9`, `10-19` and so on, in order."""


class UnreadableFile(TablePart):
    """An image that cannot be decoded, and why."""

    image: str
    reason: str


class SamePicture(TablePart):
    """Images that are one picture: the same bytes, or the same photograph saved anew
    (`melfed.common.data.images.duplicates`)."""

    images: list[str]
    groups: int
    """Groups they lie in by the table: more than one means that a split by group would not keep them together."""
    patients: int
    """Patients that the table gives them to."""
    targets_differ: bool
    """Whether the same picture is labelled both ways."""


class Inventory(TablePart):
    """All that `inspect` finds; counts are of images that have both a row and a file."""

    folder: str
    """Name of the data folder, without its path."""
    layout: str
    images: int
    melanomas: int
    benign: int
    """Everything that is no melanoma, other cancers included."""
    patients: int
    lesions: int
    groups: int
    groups_by: str
    """What a group is, in words; see `records.group_kind`."""
    sources: list[SourceCount]
    ages: Ages
    sexes: dict[str, int]
    sites: dict[str, int]
    diagnoses: dict[str, int]
    missing_values: dict[str, int]
    """Images by column that nothing is known for."""
    rows_without_image: list[str]
    images_without_row: list[str]
    undiagnosed: list[str]
    unreadable: list[UnreadableFile]
    identical_files: list[SamePicture]
    """Images whose files are the same bytes."""
    near_duplicates: list[SamePicture]
    """Images that are the same photograph, not all of them the same bytes."""
    known_duplicates: list[list[str]]
    """Images that the table itself groups as the same picture."""
    understood: Understanding
    """How the tables were read."""


def inspect(
    root: Path, progress: Callable[[int, int], None] | None = None, options: ReadOptions | None = None
) -> Inventory:
    """Read a data folder's table and decode every image once.

    Args:
        root: the data folder, see `records.read_table`.
        progress: called with the number of images done and of all, after each one.
        options: what a person says about the folder that its tables do not say.

    Raises:
        DataError: the folder or its table cannot be used; an unreadable image is no error but a finding, and neither
            is a diagnosis that nobody knows (`Inventory.understood`).
    """
    table, unknown = read_to_show(root, options=options)
    records = table.records
    groups = group_ids(records)
    duplicates, unreadable = _check_files(root, records, progress)
    melanomas = sum(record.target for record in records)
    return Inventory(
        folder=root.resolve().name,
        layout=table.layout,
        images=len(records),
        melanomas=melanomas,
        benign=len(records) - melanomas,
        patients=_distinct(record.patient_id for record in records),
        lesions=_distinct(record.lesion_id for record in records),
        groups=len(set(groups)),
        groups_by=group_kind(records),
        sources=_sources(records, groups),
        ages=_ages([record.age for record in records if record.age is not None]),
        sexes=counted(record.sex for record in records),
        sites=counted(record.site for record in records),
        diagnoses=counted(record.diagnosis for record in records),
        missing_values={name: sum(getattr(record, name) is None for record in records) for name in _COLUMNS},
        rows_without_image=list(table.missing),
        images_without_row=list(table.unlisted),
        undiagnosed=list(table.undiagnosed),
        unreadable=unreadable,
        identical_files=_same_pictures(records, groups, [each for each in duplicates if each.identical]),
        near_duplicates=_same_pictures(records, groups, [each for each in duplicates if not each.identical]),
        known_duplicates=_known_duplicates(records),
        understood=understand(table, unknown=unknown),
    )


def _check_files(
    root: Path, records: Sequence[LesionRecord], progress: Callable[[int, int], None] | None
) -> tuple[tuple[DuplicateGroup, ...], list[UnreadableFile]]:
    """Images that are one picture, and those that cannot be decoded."""
    digests: dict[str, str] = {}
    signatures: dict[str, bytes] = {}
    unreadable: list[UnreadableFile] = []
    # Pillow decodes and hashlib hashes without the interpreter's lock, so threads use all cores.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checked = zip(records, pool.map(partial(_check_file, root), records), strict=True)
        for number, (record, check) in enumerate(checked):
            if check.digest is not None:
                digests[record.image] = check.digest
                signatures[record.image] = check.signature
            if check.reason is not None:
                unreadable.append(UnreadableFile(image=record.image, reason=check.reason))
            if progress is not None:
                progress(number + 1, len(records))
    return find_duplicates(digests, signatures), unreadable


@dataclass(frozen=True, slots=True)
class _Check:
    """SHA-256 of one file, None where it cannot be read; its picture's signature; why it cannot be decoded."""

    digest: str | None = None
    signature: bytes = b""
    reason: str | None = None


def _check_file(root: Path, record: LesionRecord) -> _Check:
    digest = None
    try:
        data = read_file(root / record.image)
        digest = hashlib.sha256(data).hexdigest()
        return _Check(digest, signature(decode_bytes(data, _CHECK_SIZE, record.image)))
    except ImageProblem as problem:
        return _Check(digest, reason=problem.reason)


def _same_pictures(
    records: Sequence[LesionRecord], groups: Sequence[str], duplicates: Iterable[DuplicateGroup]
) -> list[SamePicture]:
    place = {record.image: index for index, record in enumerate(records)}
    return [
        SamePicture(
            images=list(same.images),
            groups=len({groups[place[image]] for image in same.images}),
            patients=_distinct(records[place[image]].patient_id for image in same.images),
            targets_differ=len({records[place[image]].target for image in same.images}) > 1,
        )
        for same in duplicates
    ]


def _known_duplicates(records: Sequence[LesionRecord]) -> list[list[str]]:
    same: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.dup_group is not None:
            same[record.dup_group].append(record.image)
    return [images for _, images in sorted(same.items()) if len(images) > 1]


def _sources(records: Sequence[LesionRecord], groups: Sequence[str]) -> list[SourceCount]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        members[record.source].append(index)
    return [
        SourceCount(
            name=name,
            images=len(indices),
            melanomas=sum(records[index].target for index in indices),
            patients=_distinct(records[index].patient_id for index in indices),
            lesions=_distinct(records[index].lesion_id for index in indices),
            groups=len({groups[index] for index in indices}),
        )
        for name, indices in sorted(members.items())
    ]


def _ages(ages: Sequence[float]) -> Ages:
    decades = Counter(int(age // 10) for age in ages)
    return Ages(
        known=len(ages),
        minimum=min(ages, default=None),
        median=statistics.median(ages) if ages else None,
        maximum=max(ages, default=None),
        decades={f"{10 * decade}-{10 * decade + 9}": decades[decade] for decade in sorted(decades)},
    )


def _distinct(values: Iterable[str | None]) -> int:
    return len({value for value in values if value is not None})
