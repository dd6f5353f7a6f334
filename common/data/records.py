"""From a folder of dermoscopy images and their published tables to one record an image.

Tables are recognised by their columns (`common/data/layouts.py`), never by the names of files or folders, and joined by
image id. Images are found by that id, or by their path in melfed's own table, anywhere in the folder.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, NoReturn

from common.data.layouts import DEFAULT_SOURCES, DIAGNOSES, SITES, Row, diagnosis_code, without_suffix
from common.data.tables import refuse_duplicate, refuse_two_layouts, rows_by_layout, short_list
from common.errors import DataError

__all__ = [
    "SITES",
    "LesionRecord",
    "LesionTable",
    "group_ids",
    "group_kind",
    "read_rows",
    "read_table",
    "select_sources",
    "table_stamp",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
_OURS = (*sorted(IMAGE_SUFFIXES), ".csv")
MASK_ENDINGS = ("_superpixels", "_segmentation")
TABLE_DEPTH = 2
"""How many folder levels below the data folder tables are looked for."""


@dataclass(frozen=True, slots=True)
class LesionRecord:
    """One image with what is known about its lesion and patient; None where nothing is."""

    image: str
    """POSIX path relative to the data folder (the image id where tables are read without images)."""
    target: int
    """1 for a positive of the study, else 0."""
    diagnosis: str | None
    """One of `layouts.DIAGNOSES`, or another diagnosis as it was published."""
    patient_id: str | None
    lesion_id: str | None
    dup_group: str | None
    """Name of a group of images that are the same picture under different ids."""
    age: float | None
    """Years."""
    sex: str | None
    """`male` or `female`."""
    site: str | None
    """One of `SITES`."""
    source: str
    """The clinic or data set the picture comes from."""
    image_type: str | None = None
    """How the picture was taken: `dermoscopic`, `clinical`, `overview`, `tbp tile`, `tbp overview` or `rcm`."""
    skin_type: int | None = None
    """Fitzpatrick's, 1 to 6."""
    manipulated: str | None = None
    """What was done to the picture after it was taken, as the archive says it: `altered` or `synthetic`."""


@dataclass(frozen=True)
class LesionTable:
    """All records of a data folder, in the order of their image paths."""

    root: Path
    layout: str
    records: tuple[LesionRecord, ...]
    missing: tuple[str, ...]
    """Image ids of rows that have no image file."""
    unlisted: tuple[str, ...]
    """Image files that no row names."""
    undiagnosed: tuple[str, ...] = ()
    """Images of an ISIC-archive export left out because it does not say whether they are positive."""


def read_table(root: Path, positive: Sequence[str] = ("mel",)) -> LesionTable:
    """Read the tables of a data folder and find the image of each row.

    Args:
        root: the data folder; tables lie in it or up to two levels below, images anywhere in it.
        positive: the diagnoses that count as target 1. For `("mel",)` a target that the table itself states is
            taken as it is; for anything else the diagnosis of every row must be known.

    Raises:
        DataError: no folder, no recognised table, two layouts for the same folder, no image for any row, a cell
            that cannot be used, two rows for one image, or a path that leaves the folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the images and their table")
    files = _Files(root)
    layouts = {layout: _Matched(files, rows) for layout, rows in files.rows().items()}
    with_images = {layout: matched for layout, matched in layouts.items() if matched.found}
    if not with_images:
        layout, matched = next(iter(layouts.items()))
        raise DataError(
            f"{root}: {len(matched.missing)} rows ({layout}) and no image file for any of them: '"
            f"{matched.missing[0].image}' and the others are in none of its folders (links out of it are not "
            "followed); put the images into it"
        )
    refuse_two_layouts({layout: list(matched.found.values()) for layout, matched in with_images.items()})
    layout, matched = next(iter(with_images.items()))
    records, undiagnosed = _records(layout, matched.found, positive)
    return LesionTable(
        root=root,
        layout=layout,
        records=records,
        missing=tuple(sorted(row.image for row in matched.missing)),
        unlisted=tuple(image for image in files.images if image not in matched.found),
        undiagnosed=undiagnosed,
    )


def table_stamp(root: Path) -> str:
    """Return a digest that is another one as soon as `read_table` could find something else: much cheaper than that.

    It is of the images' names, and of the tables' names, sizes, times and inodes.

    Raises:
        DataError: the folder cannot be read.
    """
    stamp = hashlib.sha256()
    for folder, folders, names in os.walk(root, onerror=_refuse_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        ours = sorted(name for name in names if name.lower().endswith(_OURS) and not name.startswith("."))
        stamp.update("\0".join([folder, *ours]).encode("utf-8", "surrogateescape"))
        for name in ours:
            if name.lower().endswith(".csv"):
                stamp.update(_state_of(Path(folder, name)))
    return stamp.hexdigest()


def _state_of(table: Path) -> bytes:
    try:
        found = table.stat()
    except OSError as error:
        _refuse_unreadable(error)
    return f"\0{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\0".encode()


def read_rows(tables: Sequence[Path], positive: Sequence[str] = ("mel",)) -> tuple[str, tuple[LesionRecord, ...]]:
    """Read published tables of one layout without their images.

    Returns:
        The layout's name, and the records in the order of their image ids, which stand in for the image paths.

    Raises:
        DataError: as `read_table` does, but for what concerns images.
    """
    layouts = rows_by_layout(tables)
    refuse_two_layouts(layouts)
    layout, rows = next(iter(layouts.items()))
    return layout, _records(layout, {row.image: row for row in rows}, positive)[0]


def select_sources(
    records: Sequence[LesionRecord], sources: Literal["all"] | Sequence[str]
) -> tuple[LesionRecord, ...]:
    """The records of some sources, in their order.

    Args:
        records: any records.
        sources: `"all"`, or names and shell patterns; an item that begins with `!` leaves out what it matches. A
            list of nothing but such items starts from all.

    Raises:
        DataError: an item matches no source, or no record is left.
    """
    if sources == "all":
        return tuple(records)
    known = sorted({record.source for record in records})
    wanted = [item for item in sources if not item.startswith("!")]
    kept = _matching(known, wanted) if wanted else set(known)
    kept -= _matching(known, [item[1:] for item in sources if item.startswith("!")])
    if not kept:
        raise DataError(f"sources {short_list(list(sources))}: nothing is left of {short_list(known)}; take one back")
    return tuple(record for record in records if record.source in kept)


def group_ids(records: Sequence[LesionRecord]) -> list[str]:
    """One group name for each record, such that no patient, lesion or duplicated picture is in two groups.

    Groups are the connected components of records that share a patient id, a lesion id or a duplicate group; a
    record with none of them is a group of its own. A group is named after its first key, patients before lesions
    before duplicate groups, so the names do not depend on the order of the records.
    """
    parents: dict[_Key, _Key] = {}

    def top(key: _Key) -> _Key:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = parents[parent]  # halve the path, so that long chains stay cheap
            key = parents[key]
        return key

    first_keys = []
    for record in records:
        keys = _keys(record)
        first_keys.append(keys[0])
        for other in keys[1:]:
            low, high = sorted((top(keys[0]), top(other)))
            parents[high] = low  # the smallest key is the top of its component
    return [f"{_KEY_NAMES[rank]}:{name}" for rank, name in map(top, first_keys)]


def group_kind(records: Sequence[LesionRecord]) -> str:
    """What a group of these records is, in words for reports.

    `patient`, `lesion`, `duplicate group` or `image` where one of them is the strongest unit known of every record;
    otherwise all that occur, as in `lesion where known, else duplicate group, else image`.
    """
    first, *others = sorted({_keys(record)[0][0] for record in records}) or [_IMAGE]
    if not others:
        return _KIND_WORDS[first]
    return f"{_KIND_WORDS[first]} where known, else " + ", else ".join(_KIND_WORDS[rank] for rank in others)


_Key = tuple[int, str]
_KEY_NAMES = ("patient", "lesion", "duplicates", "image")
_KIND_WORDS = ("patient", "lesion", "duplicate group", "image")
_IMAGE = 3


def _keys(record: LesionRecord) -> list[_Key]:
    """What ties the record to others, strongest first; the image itself where nothing does."""
    names = (record.patient_id, record.lesion_id, record.dup_group)
    return [(rank, name) for rank, name in enumerate(names) if name is not None] or [(_IMAGE, record.image)]


def _matching(known: Sequence[str], items: Sequence[str]) -> set[str]:
    matched: set[str] = set()
    for item in items:
        # A name may hold brackets, which mean something else in a pattern.
        hits = {name for name in known if name == item or fnmatchcase(name, item)}
        if not hits:
            raise DataError(f"source '{item}' matches none of the data; its sources are {short_list(known)}")
        matched |= hits
    return matched


class _Files:
    """The images and tables below a folder; hidden files, masks and linked folders are passed over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: list[Path] = []
        self.images: list[str] = []
        self.links: set[str] = set()
        for folder, folders, names in os.walk(root, onerror=_refuse_unreadable):
            here = Path(folder).relative_to(root)
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            self.links.update((here / name).as_posix() for name in folders if (root / here / name).is_symlink())
            for name in sorted(names):
                if not name.startswith("."):
                    self._add(here, name)
        self.images.sort()
        self.known = set(self.images)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            self.by_stem[without_suffix(PurePosixPath(image).stem)].append(image)

    def _add(self, here: Path, name: str) -> None:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES and not PurePosixPath(name).stem.lower().endswith(MASK_ENDINGS):
            path = (here / name).as_posix()
            self.images.append(path)
            if (self.root / path).is_symlink():
                self.links.add(path)
        elif suffix == ".csv" and len(here.parts) <= TABLE_DEPTH:
            self.tables.append(self.root / here / name)

    def rows(self) -> dict[str, list[Row]]:
        """The joined rows of each layout; the folder is named where none is recognised."""
        try:
            return rows_by_layout(self.tables)
        except DataError as error:
            raise DataError(f"{self.root}: {error}") from error

    def find(self, row: Row) -> str | None:
        """The image file of a row, relative to the root; DataError where the row points out of the folder."""
        name = PurePosixPath(row.image.replace("\\", "/"))
        if name.is_absolute() or PureWindowsPath(row.image).drive or ".." in name.parts:
            raise DataError(f"{row.where}: '{row.image}' leaves the data folder; give a path relative to it")
        here = PurePosixPath(row.table.parent.relative_to(self.root).as_posix())
        candidates = [(here / name).as_posix(), name.as_posix()]
        found = next((path for path in candidates if path in self.known), None)
        if found is None and len(name.parts) == 1:
            stem = name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name
            found = min(self.by_stem.get(without_suffix(stem), ()), key=lambda path: _nearest(path, here), default=None)
        for path in (found,) if found else candidates:
            self._refuse_links_outside(row, PurePosixPath(path))
        return found

    def _refuse_links_outside(self, row: Row, path: PurePosixPath) -> None:
        for part in (path, *path.parents):
            if part.as_posix() not in self.links:
                continue
            # realpath, since Path.resolve raises where links form a circle
            if not Path(os.path.realpath(self.root / part)).is_relative_to(os.path.realpath(self.root)):
                raise DataError(f"{row.where}: '{path}' is a link out of the data folder; copy the images into it")


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); mend its permissions") from error


def _nearest(path: str, here: PurePosixPath) -> tuple[bool, int, str]:
    """Among files of one stem: those beside the table first, then the least deep."""
    return not PurePosixPath(path).is_relative_to(here), path.count("/"), path


class _Matched:
    """The rows of one layout by the image file they name, and those that name none."""

    def __init__(self, files: _Files, rows: Iterable[Row]) -> None:
        self.found: dict[str, Row] = {}
        self.missing: list[Row] = []
        for row in rows:
            path = files.find(row)
            if path is None:
                self.missing.append(row)
            elif path in self.found:
                refuse_duplicate(row, self.found[path])
            else:
                self.found[path] = row


def _records(
    layout: str, rows: dict[str, Row], positive: Sequence[str]
) -> tuple[tuple[LesionRecord, ...], tuple[str, ...]]:
    """The records of rows by image, and the images whose target an archive export leaves open."""
    positives = frozenset(diagnosis_code(name) for name in positive)
    known = set(DIAGNOSES) | {row.diagnosis for row in rows.values() if row.diagnosis}
    if not positives <= known:
        unknown = short_list(sorted(positives - known))
        raise DataError(f"positive: no diagnosis is called {unknown}; known are {short_list(sorted(known), 40)}")
    records: list[LesionRecord] = []
    undiagnosed: list[str] = []
    for image, row in sorted(rows.items()):
        target = _target(row, positives)
        if target is not None:
            records.append(_record(layout, image, row, target))
        elif layout == "ISIC archive":
            undiagnosed.append(image)
        else:
            names = ", ".join(sorted(positives))
            raise DataError(
                f"{row.where}: the diagnosis of '{row.image}' is not known well enough to tell whether it is one of "
                f"{names}; give it, or study melanoma alone (positive: [mel])"
            )
    if not records:
        raise DataError(f"none of the {len(rows)} rows has a diagnosis; export them with diagnoses")
    return tuple(records), tuple(undiagnosed)


def _target(row: Row, positives: frozenset[str]) -> int | None:
    if positives == {"mel"} and row.target is not None:
        return row.target
    if row.diagnosis not in (None, "unk"):
        return int(row.diagnosis in positives)
    return 0 if positives <= row.ruled_out else None


def _record(layout: str, image: str, row: Row, target: int) -> LesionRecord:
    return LesionRecord(
        image=image,
        target=target,
        diagnosis=row.diagnosis,
        patient_id=row.patient_id,
        lesion_id=row.lesion_id,
        dup_group=row.dup_group,
        age=row.age,
        sex=row.sex,
        site=row.site,
        source=row.source or DEFAULT_SOURCES[layout],
    )
