"""From a folder of images and their published tables to one record an image.

Tables are recognised by their columns (`readers`), never by the names of files or folders, and joined by image id.
Images are found by that id, or by their path in melfed's own table, anywhere in the folder.
"""

import gc
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from melfed.common.data.decisions import Cause, Decisions, Key, LeftOutRow, Verdict, refuse_what_is_open
from melfed.common.data.images.files import Files
from melfed.common.data.people import Namer, People, describe_people
from melfed.common.data.tables.layouts import (
    read_layouts,
    rows_by_image,
    with_images,
)
from melfed.common.data.tables.matching import Matched
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.tables import TableReport, short_list
from melfed.common.data.vocabulary.entities import positive_entities
from melfed.common.errors import DataError


@dataclass(frozen=True, slots=True)
class LesionRecord:
    """One image with what is known about its lesion and patient; None where nothing is."""

    image: str
    """POSIX path relative to the data folder."""
    target: int
    """1 for a positive of the study, else 0."""
    diagnosis: str | None
    """A code of `vocabulary.entities` under which reports count it; None where no single one is known."""
    patient_id: str | None
    """Normalised and scoped (`identity`): equal for all images of one person, and for nobody else's."""
    lesion_id: str | None
    """Likewise."""
    dup_group: str | None
    """Name of a group of images that are the same picture under different ids."""
    age: float | None
    """Years."""
    sex: str | None
    """`male` or `female`."""
    site: str | None
    """One of `vocabulary.sites.SITES`."""
    source: str
    """The clinic or data set the picture comes from."""
    image_type: str | None = None
    """How the picture was taken: `dermoscopic`, `clinical`, `overview`, `tbp tile`, `tbp overview` or `rcm`."""
    skin_type: int | None = None
    """Fitzpatrick's, 1 to 6."""
    manipulated: str | None = None
    """What was done to the picture after it was taken, as the archive says it: `altered` or `synthetic`."""


_Draft: Final[Any] = make_dataclass("_Draft", [item.name for item in fields(LesionRecord)], slots=True)


def _record(*values: object) -> LesionRecord:
    """The same as `LesionRecord(*values)` in a fifth of the time, of all fields in their order.

    A frozen class sets each field by a call; one that is not, with the same slots, does not, and becomes frozen after.
    """
    draft = _Draft(*values)
    draft.__class__ = LesionRecord
    record: LesionRecord = draft
    return record


@dataclass(frozen=True, slots=True)
class WordCount:
    """A diagnosis as the table writes it, what it was taken for, and how many rows have it."""

    word: str
    code: str | None
    """The class; None where the word leaves it open, or is not known."""
    reading: str
    """`known`, `undecided`, `unknown` or `missing`."""
    rows: int


@dataclass(frozen=True)
class LesionTable:
    """All records of a data folder, in the order of their image paths, and how its tables were understood.

    What is not in `records` is for the people whose data it is: it names images, patients and words of the tables.
    """

    root: Path
    layout: str
    records: tuple[LesionRecord, ...]
    missing: tuple[str, ...]
    """Image ids of rows that have no image file."""
    unlisted: tuple[str, ...]
    """Image files that no row names."""
    left_out: tuple[LeftOutRow, ...] = ()
    """Rows that have an image and no record, with the reason."""
    words: tuple[WordCount, ...] = ()
    """The diagnoses of all rows that have an image, the most frequent first."""
    tables: tuple[TableReport, ...] = ()
    people: People | None = None
    notes: tuple[str, ...] = ()
    """What else should be known, a line each."""

    def left_out_because(self, *causes: Cause) -> tuple[str, ...]:
        """The images of rows that were left out for some causes."""
        return tuple(row.image for row in self.left_out if row.cause in causes)

    @property
    def undiagnosed(self) -> tuple[str, ...]:
        """Images left out because nobody knows whether they are positives."""
        return self.left_out_because("undecided", "no diagnosis", "unknown word")


def read_table(
    root: Path, positive: Sequence[str] = ("mel",), options: ReadOptions | None = None, strict: bool = True
) -> LesionTable:
    """Read the tables of a data folder and find the image of each row.

    Args:
        root: the data folder; tables lie in it or up to two levels below, images anywhere in it.
        positive: the diagnoses that count as target 1, codes of `vocabulary.entities`. For `("mel",)` a target that
            the table itself states is taken where its diagnosis does not contradict it; for anything else the
            diagnosis of every row must be known.
        options: what a person says about the folder that its tables do not say.
        strict: whether a row that cannot be used is an error. Where not, as for a private study after its approval,
            such rows are left out, each judged by itself alone, and no patient's row changes what becomes of another
            patient's: two patients' rows may then name one image.

    Raises:
        DataError: no folder, no table with known columns, or a `positive` that the vocabulary does not have. Where
            `strict`, also two layouts in the folder, no image for any row, a cell that cannot be used, a diagnosis
            that is not in the vocabulary (`decisions.UnknownWords`), two rows for one image, or a path that leaves the
            folder.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("one", "two"):
    ...         Image.new("RGB", (64, 64)).save(Path(folder, f"{name}.png"))
    ...     lines = "image,diagnosis,patient_id\\none,melanoma,P1\\ntwo,Blue naevus,P2\\n"
    ...     _ = Path(folder, "table.csv").write_text(lines)
    ...     table = read_table(Path(folder))
    ...
    >>> [(record.image, record.target, record.diagnosis) for record in table.records]
    [('one.png', 1, 'mel'), ('two.png', 0, 'nv')]
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the images and their table")
    options = options or ReadOptions()
    decisions = Decisions(positive_entities(positive), options)
    with without_collection():
        files = Files(root, strict, options.links)
        layouts, reports, notes = read_layouts(root, files, options, strict)
        matched = {layout: Matched(files, rows, strict) for layout, rows in layouts.items()}
        if strict:
            matched = with_images(root, files, matched)
        found = rows_by_image(list(matched.values()), strict, options)
        rows = [(path, row) for path in files.images if path in found for row in found[path]]
        census = _census(rows, decisions, options, apart=not strict)
        if strict:
            refuse_what_is_open(((row, cause, reason) for _, row, cause, reason in census.left_out), positive)
            if not census.records:
                raise DataError(f"none of the {len(rows)} rows has a diagnosis; export them with diagnoses")
        reasons = [LeftOutRow(image, row.where, cause, reason) for image, row, cause, reason in census.left_out]
        return LesionTable(
            root=root,
            layout=" + ".join(matched),
            records=tuple(census.records),
            missing=tuple(sorted(row.image for part in matched.values() for row in part.missing)),
            unlisted=files.unlisted(found),
            left_out=tuple(reasons + [row for part in matched.values() for row in part.left_out]),
            words=census.words(),
            tables=reports,
            people=describe_people(rows, reports, options.shared_ids),
            notes=notes + census.notes(rows),
        )


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


def select_image_types(
    records: Sequence[LesionRecord], types: Literal["all"] | Collection[str]
) -> tuple[LesionRecord, ...]:
    """The records of some kinds of pictures, and those whose kind the table does not say, in their order.

    Args:
        records: any records.
        types: `"all"`, or some kinds of pictures.
    """
    if types == "all":
        return tuple(records)
    return tuple(record for record in records if record.image_type is None or record.image_type in types)


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


@dataclass(slots=True)
class _Alike:
    """Rows that say the same: what becomes of them, one of them, and how many there are."""

    verdict: Verdict
    example: Row
    rows: int = 0


@dataclass
class _Census:
    """Records, the rows that none is made of, and what both say."""

    records: list[LesionRecord] = field(default_factory=list)
    left_out: list[tuple[str, Row, Cause, str]] = field(default_factory=list)
    alike: dict[Key, _Alike] = field(default_factory=dict)

    def words(self) -> tuple[WordCount, ...]:
        """What all rows say in words."""
        counts: Counter[tuple[str, str | None, str]] = Counter()
        for same in self.alike.values():
            diagnosis = same.example.diagnosis
            counts[diagnosis.word, same.verdict.code, diagnosis.reading] += same.rows
        return tuple(WordCount(*key, count) for key, count in counts.most_common())

    def notes(self, rows: Sequence[tuple[str, Row]]) -> tuple[str, ...]:
        """What readers say about rows, and mixtures of kinds of pictures."""
        kinds = dict.fromkeys(same.example.table.kind for same in self.alike.values())
        notes = [
            note
            for kind in kinds
            if kind is not None and kind.notes is not None
            for note in kind.notes([row for _, row in rows if row.table.kind is kind])
        ]
        types: Counter[str] = Counter()
        for same in self.alike.values():
            if same.example.image_type is not None:
                types[same.example.image_type] += same.rows
        if len(types) > 1:
            mixed = ", ".join(f"{count} {name}" for name, count in types.most_common())
            notes.append(f"kinds of pictures are mixed ({mixed}); a network can tell them apart by that alone")
        return tuple(notes)


def _census(rows: Sequence[tuple[str, Row]], decisions: Decisions, options: ReadOptions, apart: bool) -> _Census:
    """Make a record of each row by its image, where one can be made."""
    census = _Census()
    records, alike, key_of = census.records, census.alike, decisions.key
    names = Namer(options.shared_ids, apart, rows).names
    for image, row in rows:  # one walk: with 400,000 rows, each further one takes a while
        key = key_of(row)
        same = alike.get(key)
        if same is None:
            same = alike[key] = _Alike(decisions.of(row), row)
        same.rows += 1
        verdict = same.verdict
        if row.problem is not None:
            census.left_out.append((image, row, "cannot be used", row.problem))
        elif verdict.cause is not None:
            census.left_out.append((image, row, verdict.cause, verdict.reason))
        else:
            records.append(
                _record(
                    image,
                    verdict.target or 0,
                    verdict.code,
                    *names(row),
                    row.age,
                    row.sex,
                    row.site,
                    row.source or row.table.default_source,
                    row.image_type,
                    row.skin_type,
                    row.manipulated,
                )
            )
    return census


@contextmanager
def without_collection() -> Iterator[None]:
    """Make many objects without the garbage collector, which would look at all of them again and again.

    None of them is part of a circle; those of other threads wait.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            if gc.get_freeze_count() == 0:
                # What was made becomes old without a look at each: the next collection is of what comes after.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
