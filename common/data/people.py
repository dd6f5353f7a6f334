"""Patients and lesions of a whole folder: names for the rows, and what people should know about them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from melfed.common.data.tables.rows import Row
from melfed.common.data.tables.tables import TableReport

_SHOWN: Final = 20


@dataclass(frozen=True)
class People:
    """What was understood of patients and lesions, for the people whose data it is.

    Attributes:
        shared: whether equal ids of several sources were taken for one person's, where the ids are the sources' own.
        over_sources: how many such ids occur in several sources.
        respelled: ids that are spelled in several ways and were taken for one person's: all spellings of each.
        nobody: marks of "not known" among the ids of patients, with their counts.
        shared_lesions: how many ids of lesions that should be unique occur with several patients.
        renumbered_lesions: how many ids of lesions occur with several patients of a source and were taken for theirs.
    """

    shared: bool
    over_sources: int
    respelled: tuple[tuple[str, ...], ...]
    nobody: Mapping[str, int]
    shared_lesions: int
    renumbered_lesions: int


class Namer:
    """Gives rows the names of their patients and lesions in the whole folder."""

    def __init__(self, shared: bool, apart: bool, rows: Sequence[tuple[str, Row]] = ()) -> None:
        """Begin.

        Args:
            shared: whether equal ids of several sources are one person's.
            apart: whether each row is named by itself alone, so that no row joins or moves another patient's.
            rows: where not `apart`, all rows by their images: a lesion without a patient that only one patient of its
                source has is that patient's.
        """
        self._shared, self._apart = shared, apart
        self._owners: dict[str, set[str]] = defaultdict(set)
        self._alone: dict[tuple[int, str | None, str | None], tuple[str | None, None, None]] = {}
        for _, row in rows if not apart else ():
            if row.lesion is not None and row.patient is not None and not row.table.has_unique_lesion(row.lesion):
                self._owners[self._lesion_alone(row)].add(row.lesion_id(shared, apart) or "")

    def names(self, row: Row) -> tuple[str | None, str | None, str | None]:
        """Return the names of a row's patient, lesion and duplicate group."""
        if row.lesion is None and row.dup_group is None:
            key = (id(row.table), row.source, row.patient)
            if (names := self._alone.get(key)) is None:
                names = self._alone[key] = row.patient_id(self._shared), None, None
            return names
        patient = row.patient_id(self._shared)
        lesion = row.lesion_id(self._shared, self._apart) if row.lesion is not None else None
        if lesion is not None and patient is None:
            owners = self._owners.get(lesion, ())
            lesion = next(iter(owners)) if len(owners) == 1 else lesion
        if self._apart and (patient or lesion):
            return patient, lesion, None
        return patient, lesion, row.dup_group

    def _lesion_alone(self, row: Row) -> str:
        """The name that the row's lesion would have if its patient were not known."""
        patient, row.patient = row.patient, None
        name = row.lesion_id(self._shared, self._apart) or ""
        row.patient = patient
        return name


def describe_people(rows: Sequence[tuple[str, Row]], reports: Sequence[TableReport], shared: bool) -> People:
    """Return what people should know about the patients and lesions of some rows by their images."""
    sources: dict[str, set[str]] = defaultdict(set)
    patients: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for table, source, patient, lesion in {(row.table, row.source, row.patient, row.lesion) for _, row in rows}:
        if patient is None:
            continue
        if not table.has_unique_patient(patient):
            sources[patient].add(source or table.default_source)
        if lesion is not None:
            unique = table.has_unique_lesion(lesion)
            place = "" if unique else f"{source or table.default_source}\0"
            patients[place + lesion, unique].add(patient)
    several = [unique for (_, unique), owners in patients.items() if len(owners) > 1]
    spellings: dict[str, set[str]] = defaultdict(set)
    nobody: Counter[str] = Counter()
    for report in reports:
        for name, spelled in report.patients.items():
            spellings[name] |= {spelling.strip() for spelling in spelled}
        nobody.update(report.unread.get("patient_id", {}))
    respelled = sorted(tuple(sorted(spelled)) for spelled in spellings.values() if len(spelled) > 1)
    return People(
        shared=shared,
        over_sources=sum(len(places) > 1 for places in sources.values()),
        respelled=tuple(respelled[:_SHOWN]),
        nobody=dict(nobody.most_common(_SHOWN)),
        shared_lesions=sum(several),
        renumbered_lesions=len(several) - sum(several),
    )
