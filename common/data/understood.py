"""What was understood of a clinic's tables, for the people whose data it is: nobody can see a wrong reading otherwise.

It holds words of the tables, and, unless `without_names` was asked for, names of images and spellings of patients' ids:
none of it leaves the clinic.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from melfed.common.data.decisions import UnknownWords
from melfed.common.data.records import LesionRecord, LesionTable, read_table
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.data.vocabulary.diagnoses import LEAVE_OUT, checked_mapping
from melfed.common.errors import DataError

EXAMPLES: Final = 3
"""How many rows that are left out are shown for each cause."""
COUNTED: Final = frozenset({"rows", "images", "patients", "not known", "number"})
"""Columns of `sections` that hold numbers."""
FEW: Final = 10
"""With fewer images than this nothing is called improbable."""


class TablePart(BaseModel):
    """Of a description for people: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnUse(TablePart):
    """A column and what it was taken for."""

    table: str
    column: str
    meaning: str


class WordUse(TablePart):
    """A diagnosis as it is written, its class, and how many rows have it."""

    word: str
    code: str | None
    """None where it settles nothing."""
    reading: str
    """`known`, `undecided`, `unknown` or `missing`."""
    rows: int


class SourcePatients(TablePart):
    """The patients of one source."""

    source: str
    images: int
    patients: int
    without_patient: int
    """Images whose patient is not known."""
    largest: float | None
    """Share of the images with a known patient that the one with most images has."""


class LeftOutCount(TablePart):
    """Rows that no record was made of, by cause."""

    cause: str
    rows: int
    examples: list[str]


class Understanding(TablePart):
    """How tables were read; see the module."""

    layout: str
    columns: list[ColumnUse]
    words: list[WordUse]
    unread: dict[str, dict[str, int]]
    """By what a column holds, its words that nobody understood, with their counts."""
    patients: list[SourcePatients]
    ids: str
    """`shared` or `scoped`: whether equal ids of several sources are one person's."""
    ids_over_sources: int
    """Ids of patients that occur in several sources."""
    respelled: int
    """Patients whose id is spelled in several ways."""
    spellings: list[list[str]]
    not_known: dict[str, int]
    """What was taken for "not known" among ids of patients, with counts."""
    shared_lesions: int
    """Ids of lesions, each unique by its kind, that occur with several patients."""
    renumbered_lesions: int
    """Ids of lesions that occur with several patients and were taken for each patient's own."""
    image_types: dict[str, int]
    skin_types: dict[str, int]
    manipulated: dict[str, int]
    left_out: list[LeftOutCount]
    questions: list[str]
    notes: list[str]
    improbable: list[str]
    """Why the reading can hardly be right."""

    @property
    def unknown_words(self) -> Counter[str]:
        """The diagnoses that the vocabulary does not have, with their rows."""
        return Counter({use.word: use.rows for use in self.words if use.reading == "unknown"})

    def without_names(self) -> "Understanding":
        """The same without names of images and ids of patients; words of diagnoses stay."""
        left_out = [LeftOutCount(cause=count.cause, rows=count.rows, examples=[]) for count in self.left_out]
        return self.model_copy(update={"left_out": left_out, "spellings": []})


@dataclass(frozen=True)
class ShownTable:
    """One table of what was understood, for a terminal."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_to_show(
    root: Path, positive: Sequence[str] = ("mel",), options: ReadOptions | None = None
) -> tuple[LesionTable, UnknownWords | None]:
    """Read a folder strictly, but for diagnoses that nobody knows: their rows are left out, so that all can be shown.

    Returns:
        The table, and the error that a strict reading ends with where there are such diagnoses.

    Raises:
        DataError: as `records.read_table`.
    """
    options = options or ReadOptions()
    try:
        return read_table(root, positive, options), None
    except UnknownWords as error:
        known = {**options.diagnoses, **checked_mapping(dict.fromkeys(error.words, LEAVE_OUT))}
        try:
            return read_table(root, positive, replace(options, diagnoses=known)), error
        except DataError:
            raise error from None  # nothing is left without those rows


def understand(
    table: LesionTable, records: Sequence[LesionRecord] | None = None, unknown: UnknownWords | None = None
) -> Understanding:
    """Describe how a folder was read.

    Args:
        table: as it was read.
        records: those of its records that count; without, all.
        unknown: the diagnoses that nobody knows, from `read_to_show`.
    """
    records = table.records if records is None else records
    people = table.people
    return Understanding(
        layout=table.layout,
        columns=[
            ColumnUse(table=report.table, column=column, meaning=meaning)
            for report in table.tables
            for column, meaning in report.used.items()
        ],
        words=_words(table, unknown),
        unread=_unread(table),
        patients=list(_patients(records)),
        ids="shared" if people and people.shared else "scoped",
        ids_over_sources=people.over_sources if people else 0,
        respelled=len(people.respelled) if people else 0,
        spellings=[list(spellings) for spellings in people.respelled] if people else [],
        not_known=dict(people.nobody) if people else {},
        shared_lesions=people.shared_lesions if people else 0,
        renumbered_lesions=people.renumbered_lesions if people else 0,
        image_types=counted(record.image_type for record in records),
        skin_types=counted(str(record.skin_type) if record.skin_type else None for record in records),
        manipulated=counted(record.manipulated for record in records),
        left_out=_left_out(table, unknown),
        questions=[question for report in table.tables for question in report.questions],
        notes=list(table.notes),
        improbable=list(improbable(table, records)),
    )


def improbable(table: LesionTable, records: Sequence[LesionRecord]) -> Iterator[str]:
    """Yield why a reading can hardly be right: what is in the table, or what was made of it, is not what it says."""
    if len(records) < FEW:
        return
    positives = sum(record.target for record in records)
    if positives in (0, len(records)):
        yield f"{'none' if not positives else 'all'} of {len(records)} images show a melanoma: see the words below"
    known = [record for record in records if record.patient_id is not None]
    patients = {record.patient_id for record in known}
    if len(known) == len(records) and len(patients) == 1:
        yield f"all {len(records)} images are of one patient: is the column the patient's number?"
    lesions: dict[str, set[str | None]] = defaultdict(set)
    for record in known:
        if record.lesion_id is not None:
            lesions[record.lesion_id].add(record.patient_id)
    if shared := sum(len(owners) > 1 for owners in lesions.values()):
        yield f"{shared} of {len(lesions)} lesions are of several patients: which of the two columns is wrong?"
    if table.people and table.people.shared_lesions > shared:
        yield f"{table.people.shared_lesions} ids of lesions occur with several patients, though each names one lesion"


def sections(found: Understanding) -> Iterator[ShownTable]:
    """Yield what was understood as tables for a terminal, those that hold something."""
    for section in (
        ShownTable(
            "columns", ("table", "column", "taken for"), tuple((c.table, c.column, c.meaning) for c in found.columns)
        ),
        ShownTable("diagnoses", ("word", "class", "rows"), tuple(_word_row(word) for word in found.words)),
        ShownTable("patients", ("source", "images", "patients", "not known", "largest"), tuple(_patient_rows(found))),
        ShownTable("ids", ("", "number", "for example"), tuple(_id_rows(found))),
        ShownTable("pictures", ("", "kinds"), tuple(_picture_rows(found))),
        ShownTable("not understood", ("column of", "words"), tuple(_unread_rows(found))),
        ShownTable("left out", ("why", "rows", "for example"), tuple(_left_out_rows(found))),
        ShownTable("to be answered", ("question",), tuple((text,) for text in (*found.questions, *found.notes))),
        ShownTable("improbable", ("what",), tuple((text,) for text in found.improbable)),
    ):
        if section.rows:
            yield section


def _words(table: LesionTable, unknown: UnknownWords | None) -> list[WordUse]:
    # Words that were left out so that all can be shown are what they are: unknown.
    hidden = unknown.words if unknown else Counter[str]()
    uses = [WordUse(word=word, code=None, reading="unknown", rows=rows) for word, rows in hidden.most_common()]
    return uses + [
        WordUse(word=use.word, code=use.code, reading=use.reading, rows=use.rows)
        for use in table.words
        if use.word not in hidden
    ]


def _unread(table: LesionTable) -> dict[str, dict[str, int]]:
    unread: dict[str, Counter[str]] = defaultdict(Counter)
    for report in table.tables:
        for meaning, words in report.unread.items():
            if meaning != "patient_id":
                unread[meaning].update(words)
    return {meaning: dict(counts.most_common()) for meaning, counts in unread.items()}


def _patients(records: Sequence[LesionRecord]) -> Iterator[SourcePatients]:
    by_source: dict[str, list[str | None]] = defaultdict(list)
    for record in records:
        by_source[record.source].append(record.patient_id)
    for source, names in sorted(by_source.items()):
        counts = Counter(name for name in names if name is not None)
        yield SourcePatients(
            source=source,
            images=len(names),
            patients=len(counts),
            without_patient=names.count(None),
            largest=max(counts.values()) / counts.total() if counts else None,
        )


def _left_out(table: LesionTable, unknown: UnknownWords | None) -> list[LeftOutCount]:
    hidden = {f"diagnosis '{word}'": word for word in unknown.words} if unknown else {}
    by_cause: dict[str, list[str]] = defaultdict(list)
    for row in table.left_out:
        place, named = f"{row.image} ({row.where})", next((name for name in hidden if name in row.reason), None)
        if named is not None:
            by_cause["unknown word"].append(f"{place}: {named} is not in the vocabulary")
        else:
            by_cause[row.cause].append(f"{place}: {row.reason}")
    return [
        LeftOutCount(cause=cause, rows=len(rows), examples=rows[:EXAMPLES])
        for cause, rows in sorted(by_cause.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def counted(values: Iterable[str | None]) -> dict[str, int]:
    """Counts of what is known, the most frequent first."""
    counts = Counter(value for value in values if value is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _word_row(use: WordUse) -> tuple[str, str, str]:
    meaning = use.code if use.reading == "known" and use.code else use.reading
    if use.reading == "missing":
        meaning = f"{use.code}, by another column" if use.code else "by another column, or not known"
    if use.reading == "unknown":
        meaning = "NOT KNOWN: map it"
    return use.word or "(empty)", meaning, f"{use.rows:,}"


def _patient_rows(found: Understanding) -> Iterator[tuple[str, ...]]:
    for source in found.patients:
        largest = "" if source.largest is None else f"{source.largest:.1%} of its images"
        counts = (source.images, source.patients, source.without_patient)
        yield source.source, *(f"{count:,}" for count in counts), largest


def _id_rows(found: Understanding) -> Iterator[tuple[str, ...]]:
    if found.ids_over_sources:
        taken = "taken for one person" if found.ids == "shared" else "taken for other people (ids: scoped)"
        yield "ids that occur in several sources", f"{found.ids_over_sources:,}", taken
    if found.respelled:
        yield (
            "patients spelled in several ways",
            f"{found.respelled:,}",
            "; ".join(map(" = ".join, found.spellings[:EXAMPLES])),
        )
    if found.not_known:
        marks = ", ".join(f"'{mark}' {count:,}" for mark, count in found.not_known.items())
        yield "taken for not known", f"{sum(found.not_known.values()):,}", marks
    if found.shared_lesions:
        yield "lesions of several patients", f"{found.shared_lesions:,}", "an id of a lesion should have one patient"
    if found.renumbered_lesions:
        yield "lesion numbers begun anew", f"{found.renumbered_lesions:,}", "taken for each patient's own"


def _picture_rows(found: Understanding) -> Iterator[tuple[str, str]]:
    kinds = {"kinds": found.image_types, "skin types": found.skin_types, "manipulated": found.manipulated}
    for name, counts in kinds.items():
        if counts:
            yield name, ", ".join(f"{value} {count:,}" for value, count in counts.items())


def _unread_rows(found: Understanding) -> Iterator[tuple[str, str]]:
    for meaning, words in found.unread.items():
        shown = ", ".join(f"'{word}' {count:,}" for word, count in list(words.items())[: 4 * EXAMPLES])
        yield meaning, shown + (f" and {len(words) - 4 * EXAMPLES} more" if len(words) > 4 * EXAMPLES else "")


def _left_out_rows(found: Understanding) -> Iterator[tuple[str, str, str]]:
    for count in found.left_out:
        yield count.cause, f"{count.rows:,}", "\n".join(count.examples)
