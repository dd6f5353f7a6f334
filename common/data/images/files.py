"""Which tables and images lie below a data folder, and which image a name of a table means.

An image has a POSIX path relative to the folder. One inside an HDF5 file has that file's path and its own name in it,
as in `train-image.hdf5/ISIC_0015670`. Hidden files, masks and linked folders are passed over.

A path, and a file name below a folder that is called as the row's own patient, mean one file whatever else lies in the
folder. Any other name is looked for in all folders, so a file of another content under the same name makes it mean
nothing: the one thing in which a file can decide about a row of another patient. Strictly it is refused, with the
paths, before anybody trains; of a folder that has changed since, such rows are left out.
"""

import contextlib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Final, NoReturn

from melfed.common.data.identity import normal_id
from melfed.common.data.images.containers import HDF5_SUFFIXES, members
from melfed.common.data.images.decoder import ImageProblem, read_file
from melfed.common.data.images.image_names import (
    COMMON,
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    Names,
    composed,
    folder_of,
    one_text,
    stem_of,
    stems_of,
)
from melfed.common.data.images.links import LinkRule, Links
from melfed.common.errors import DataError

if TYPE_CHECKING:
    from melfed.common.data.images.dicom import Header

TABLE_SUFFIXES: Final = frozenset({".csv", ".tsv", ".tab", ".txt", ".xlsx", ".parquet"})
MASK_ENDINGS: Final = ("_superpixels", "_segmentation")
"""Ends of the names of masks: published beside the pictures that they belong to, and none themselves."""
TABLE_DEPTH: Final = 2
"""How many folder levels below the data folder tables are looked for."""

_ARCHIVES: Final = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"})
_COMMON_MASKS: Final = tuple(f"{end}{suffix}" for end in MASK_ENDINGS for suffix in COMMON)
_DICOM_MAGIC: Final = (128, b"DICM")
_MOST_PATHS: Final = 4


class Files:
    """The images and tables below a folder.

    Attributes:
        root: the data folder.
        tables: files under a suffix of `TABLE_SUFFIXES`, at most `TABLE_DEPTH` levels down.
        images: paths of all images, sorted.
        not_read: paths of everything else, hidden files and masks apart.
        dicom_files: those of the images that are DICOM files by name.
    """

    def __init__(self, root: Path, strict: bool = True, links: Links = "inside") -> None:
        """List a folder.

        Args:
            root: the data folder.
            links: which linked folders and files are followed (`melfed.common.data.images.links`).
            strict: whether a damaged HDF5 file is an error; where not, it is among what is not read.

        Raises:
            DataError: the folder, or one in it, cannot be read; where `strict`, an HDF5 file.
        """
        self.root, self._strict, self._rule = root, strict, LinkRule(root, links)
        self.tables: list[Path] = []
        self.images: list[str] = []
        self.not_read: list[str] = []
        self.dicom_files: list[str] = []
        self._links: set[str] = set()
        self._here: dict[Path, str] = {}
        for folder, _, names, linked in _walk(root, self._rule):
            here = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
            self._links.update(f"{here}{name}" for name in linked)
            common: list[str] = []
            for name in names:
                if name.endswith(COMMON):
                    common.append(name)
                else:
                    self._add(folder, here, name)
            if any(mask in one_text(common) for mask in MASK_ENDINGS):
                common = [name for name in common if not name.endswith(_COMMON_MASKS)]
            self.images += [here + name for name in common] if here else common
        self.images.sort()

    @cached_property
    def _composed_images(self) -> Sequence[str]:
        return self.images if one_text(self.images).isascii() else [composed(image) for image in self.images]

    @cached_property
    def _paths(self) -> "Names":
        return Names(self._composed_images, self.images)

    @cached_property
    def _stems(self) -> "Names":
        return Names(stems_of(self._composed_images), self.images)

    def _add(self, folder: str, here: str, name: str) -> None:
        path, lower = f"{here}{name}", name.lower()
        stem, dot, suffix = lower.rpartition(".")  # a Path a file is slow
        stem, suffix = (stem, f".{suffix}") if dot else (lower, "")
        if suffix in IMAGE_SUFFIXES:
            if stem.endswith(MASK_ENDINGS):
                return
            self.images.append(path)
            if suffix in DICOM_SUFFIXES:
                self.dicom_files.append(path)
        elif suffix in HDF5_SUFFIXES:
            self._add_members(folder, path, name)
        elif suffix in TABLE_SUFFIXES and here.count("/") <= TABLE_DEPTH:
            self.tables.append(Path(folder, name))
        elif _is_dicom(suffix, Path(folder, name)):
            self.images.append(path)
            self.dicom_files.append(path)
        else:
            self.not_read.append(path)

    def _add_members(self, folder: str, path: str, name: str) -> None:
        try:
            self.images.extend(f"{path}/{member}" for member in members(Path(folder, name)))
        except DataError:
            if self._strict:
                raise
            self.not_read.append(path)

    def find(self, name: str, table_folder: Path, patient: str | None = None) -> str | None:
        """The image that a table means by a name; None where there is none.

        A name is a path relative to the table's folder or to the data folder, else the end of such a path or the file
        name of an image, with its suffix or else without, else the SOP instance UID in a DICOM file. Unicode forms of a
        name (NFC, NFD) are one name. Of several images, those below the table's folder come first, and of those the
        ones in a folder that is called as the patient.

        Args:
            name: what the table's cell says.
            table_folder: the folder of the table, in `root` or below it.
            patient: the normal id of the row's patient, where it is known.

        Raises:
            DataError: the name leads out of the data folder, or fits several files of different content. It tells both
                the name and the paths.
        """
        here, same = self._relative(table_folder), composed(name)
        candidates = [same]
        if "/" in same or "\\" in same or ":" in same or same == "..":
            same = _inside(same)
            candidates = [same]
        if here:
            candidates.insert(0, f"{here}{same}")
        found: Sequence[str] = ()
        for path in candidates:
            found = found or self._paths.get(path)
        found = found or self._by_name(same, here) or self._by_uid(same)
        if not found:
            for path in candidates if self._links else ():
                self._refuse_links_outside(path)
            return None
        image = found[0] if len(found) == 1 else self._only(name, found, here, patient)
        if self._links:
            self._refuse_links_outside(image)
        return image

    def named(self, table_folder: Path) -> Mapping[str, str]:
        """The images that tables in a folder mean by a name without a suffix, where no name can mean two: as `find`.

        Args:
            table_folder: the folder of the tables, in `root` or below it.

        Returns:
            Paths by name; nothing where only `find` can tell.
        """
        if self._relative(table_folder) or self._links or self.dicom_files:
            return {}
        return self._stems.alone

    def of_accession(self, number: str) -> tuple[str, ...]:
        """The DICOM images whose header has this accession number, sorted; none where it is not there."""
        return tuple(self._accessions.get(number.strip(), ()))

    @cached_property
    def headers(self) -> Mapping[str, "Header"]:
        """What the DICOM files say about patient and lesion, by path; read once, kept in memory only."""
        from melfed.common.data.images.dicom import read_header  # pydicom takes a while to load

        return {path: read_header(self.root / path) for path in self.dicom_files}

    def unlisted(self, found: Collection[str]) -> tuple[str, ...]:
        """The images that are not among those found."""
        return tuple(image for image in self.images if image not in found)

    def unread(self, names: Iterable[str]) -> dict[str, str]:
        """The files that are there for some names under a suffix that is not read, by name."""
        stems = {composed(PurePosixPath(path).stem): path for path in reversed(self.not_read)}
        stems |= {composed(PurePosixPath(path).name): path for path in self.not_read}
        wanted = {name: PurePosixPath(composed(name.replace("\\", "/"))).name for name in names}
        found = {name: stems.get(last) or stems.get(stem_of(last)) for name, last in wanted.items()}
        return {name: path for name, path in found.items() if path is not None}

    def unread_reason(self, names: Iterable[str]) -> str | None:
        """One line on the files that `unread` finds, with their suffixes and what to do; None where there are none."""
        if not (paths := list(self.unread(names).values())):
            return None
        suffixes = Counter(PurePosixPath(path).suffix.lower() or "no suffix" for path in paths)
        listed = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes.most_common(_MOST_PATHS))
        mend = "unpack them" if set(suffixes) <= _ARCHIVES else "convert them to JPEG or PNG"
        return f"{len(paths)} images are there under a suffix that is not read: {listed}; {mend}"

    def _relative(self, folder: Path) -> str:
        if folder not in self._here:
            here = folder.relative_to(self.root).as_posix()
            self._here[folder] = "" if here == "." else composed(f"{here}/")
        return self._here[folder]

    def _by_name(self, name: str, here: str) -> Sequence[str]:
        """The images whose path ends with a name's, whose suffix may be another one where its own is not there.

        Published paths are often relative to a folder of images.
        """
        folder, _, last = name.rpartition("/")
        found = self._stems.get(stem_of(last))
        if folder:
            found = [image for image in found if f"/{folder_of(image)}".endswith(f"/{folder}")]
            found = [image for image in found if folder_of(image) in (f"{here}{folder}", folder)] or found
        if len(found) > 1 and f".{last.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES:
            found = [image for image in found if composed(image).rpartition("/")[2] == last] or found
        return found

    def _by_uid(self, name: str) -> Sequence[str]:
        return self._uids.get(name, ()) if self.dicom_files and name.replace(".", "").isdigit() else ()

    @cached_property
    def _uids(self) -> dict[str, list[str]]:
        return _grouped((header.sop_instance_uid, path) for path, header in self.headers.items())

    @cached_property
    def _accessions(self) -> dict[str, list[str]]:
        return _grouped((header.accession_number, path) for path, header in self.headers.items())

    def _only(self, name: str, paths: Sequence[str], here: str, patient: str | None) -> str:
        """The file that several of one name are copies of, the nearest of them."""
        paths = [path for path in paths if composed(path).startswith(here)] or paths
        if patient is not None:
            own = [path for path in paths if any(normal_id(part) == patient for part in path.split("/")[:-1])]
            paths = own or paths
        nearest, *others = sorted(paths, key=lambda path: (path.count("/"), path))
        if others and any(not _same_content(self.root / nearest, self.root / other) for other in others):
            listed = ", ".join([nearest, *others][:_MOST_PATHS]) + (" …" if len(paths) > _MOST_PATHS else "")
            raise DataError(
                f"'{name}' fits {len(paths)} files of different content ({listed}); write the path that is meant into "
                "the table, or move the others away"
            )
        return nearest

    def _refuse_links_outside(self, path: str) -> None:
        for part in (PurePosixPath(path), *PurePosixPath(path).parents):
            if part.as_posix() not in self._links:
                continue
            # A link that leads nowhere is an image that cannot be read: it is left out, and named, with the others.
            with contextlib.suppress(OSError):
                if reason := self._rule.refusal(self.root / part):
                    raise DataError(f"'{path}' {reason}")


def table_stamp(root: Path, links: Links = "inside") -> str:
    """Return a digest that is another one as soon as another table could be read from a folder: cheaper than that.

    It is of the images' names, and of the names, sizes, times and inodes of the files that hold facts or other images:
    tables, DICOM and HDF5 files.

    Raises:
        DataError: the folder cannot be read.
    """
    stamp = hashlib.sha256()
    telling = TABLE_SUFFIXES | DICOM_SUFFIXES | HDF5_SUFFIXES
    for folder, _, names, _ in _walk(root, LinkRule(root, links)):
        suffixes = {name: PurePosixPath(name).suffix.lower() for name in names}
        ours = [
            name for name, suffix in suffixes.items() if suffix in telling | IMAGE_SUFFIXES or _may_be_dicom(suffix)
        ]
        stamp.update("\0".join([folder, *ours]).encode("utf-8", "surrogateescape"))
        for name in ours:
            if suffixes[name] in telling or _may_be_dicom(suffixes[name]):
                stamp.update(_state_of(Path(folder, name)))
    return stamp.hexdigest()


def _walk(root: Path, rule: LinkRule) -> Iterator[tuple[str, list[str], list[str], set[str]]]:
    """Folders, their folders and their files, in the order of their names, without what is hidden; and which are links.

    Linked folders are named, and entered last, where the rule says so: each folder once, under its own path if it has
    one here.
    """
    waiting, linked = [str(root)], list[str]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        if rule.links != "inside" and not rule.first_time(folder):
            continue
        folders: list[str] = []
        names: list[str] = []
        links: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    if entry.is_file(follow_symlinks=False):
                        names.append(name)
                        continue
                    link = entry.is_symlink()
                    if not (Path(entry.path).is_dir() if link else entry.is_dir(follow_symlinks=False)):
                        names.append(name)
                    elif name.startswith("__MACOSX"):
                        continue
                    else:
                        folders.append(name)
                    if link:
                        links.add(name)
        except OSError as error:
            _refuse_unreadable(error)
        folders.sort()
        names.sort()
        yield folder, folders, names, links
        waiting.extend(f"{folder}/{name}" for name in reversed(folders) if name not in links)
        linked.extend(rule.enter(f"{folder}/{name}" for name in folders if name in links))


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); mend its permissions") from error


def _state_of(file: Path) -> bytes:
    try:
        found = file.stat()
    except OSError as error:
        _refuse_unreadable(error)
    return f"\0{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\0".encode()


def _inside(name: str) -> str:
    """A path of a table with `/` between its parts; DataError where it is none below the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise DataError(f"'{name}' leaves the data folder; give a path relative to it")
    return path.as_posix()


def _may_be_dicom(suffix: str) -> bool:
    """Whether a file without a telling suffix may be DICOM: exports name files `IM0001` or by UID, as `1.2.840.3`."""
    return not suffix or suffix[1:].isdigit()


def _is_dicom(suffix: str, file: Path) -> bool:
    if not _may_be_dicom(suffix):
        return False
    place, magic = _DICOM_MAGIC
    try:
        with file.open("rb") as opened:
            opened.seek(place)
            return opened.read(len(magic)) == magic
    except OSError:
        return False  # listed among what is not read


def _grouped(pairs: Iterable[tuple[str | None, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, path in pairs:
        if key:
            groups[key].append(path)
    return groups


def _same_content(first: Path, second: Path) -> bool:
    """Whether two images are the same bytes."""
    try:
        if first.stat().st_size != second.stat().st_size:
            return False
    except NotADirectoryError:  # inside an HDF5 file
        pass
    except OSError as error:
        _refuse_unreadable(error)
    try:
        return read_file(first) == read_file(second)
    except ImageProblem:
        return False
