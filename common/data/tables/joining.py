"""One row an image: truths completed by one another and by additions, and what becomes of contradictions.

Read strictly, a contradiction is an error that names both lines. Read leniently (after a private study was approved,
nothing is refused for data), each line is judged alone: lines of two patients for one image stay with each of them, and
only lines of one patient that contradict each other are left out, all of them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Final, NoReturn

from melfed.common.data.images.image_names import IMAGE_SUFFIXES
from melfed.common.data.tables.rows import Row
from melfed.common.data.tables.tables import Table
from melfed.common.data.vocabulary.diagnoses import combine
from melfed.common.errors import DataError

TableRows = tuple[Table, list[Row]]

CONTRADICTION: Final = "two lines about this image contradict each other"

_TELLING: Final = ("patient", "lesion", "source", "dup_group")
"""Facts in which two lines about one image may not differ; of the others, those that differ are not known."""

_OTHERS: Final = ("age", "sex", "site", "image_type", "skin_type", "manipulated")
_FACTS: Final = tuple(item.name for item in fields(Row) if item.name not in ("image", "table", "line", "problem"))


def joined(tables: Sequence[TableRows], strict: bool) -> list[Row]:
    """Return the rows of a layout's truths, completed.

    Args:
        tables: the rows of each table of one layout, at least one truth among them.
        strict: whether a contradiction raises; where not, the rows get a `problem`, and several may name one image.

    Raises:
        DataError: where `strict`: a line that cannot be used, two lines of a table for one image, two tables that
            contradict each other about one, or a truth without lines.
    """
    if strict:
        for table, rows in tables:
            _refuse_problems(rows)
            if table.truth and not rows:
                raise DataError(f"{table.name}: no rows below its header; fill it or move it away")
    if len(tables) == 1 and tables[0][0].kind is not None and tables[0][0].kind.role == "truth":
        (_, rows), *_ = tables
        if len({row.image for row in rows}) == len(rows):
            return rows
    additions = _by_key([table for table in tables if not table[0].truth], strict)
    truths = _of_lesions(tables, strict)
    truths += [table for table in tables if table[0].kind is not None and table[0].kind.role == "truth"]
    if strict:
        return [_completed(rows, additions.get(key, [])) for key, rows in _by_key(truths, strict).items()]
    return [
        merged
        for key, rows in _by_key(truths, strict).items()
        for row in rows
        for merged in _with_additions(row, additions.get(key, []))
    ]


def resolved(rows: Sequence[Row], shared: bool) -> list[Row]:
    """Return the rows that stay of those that name one image, leniently: those left out have a `problem`.

    Args:
        rows: rows that name one image.
        shared: whether equal ids of patients in several sources are one person's.
    """
    if len(rows) == 1:
        return list(rows)
    # A table without any column of patients states facts of the image, whoever its patient is.
    facts = [row for row in rows if row.patient is None and not row.table.has_patients]
    owned: dict[str | None, list[Row]] = defaultdict(list)
    for row in rows:
        if row not in facts:
            owned[row.patient_id(shared)].append(row)
    return [row for own in (owned.values() or [facts]) for row in _merged([*own, *(facts if owned else [])])]


def refuse_duplicate(row: Row, other: Row) -> NoReturn:
    """Raise the DataError for two lines that name one image."""
    first, second = sorted((row, other), key=lambda each: (str(each.table.path), each.line))
    differ = [name.split("_")[0] for name in _FACTS if getattr(first, name) != getattr(second, name)]
    facts = f", with another {' and another '.join(differ[:3])}" if differ else ""
    raise DataError(
        f"{second.where}: a second row for '{second.image}'{facts} (the first: {first.where}); delete one of them"
    )


def contradiction(one: Row, other: Row) -> str | None:
    """What two lines about one image contradict each other in: a column's name and both values; None where nothing."""
    mine, theirs = one.could_be, other.could_be
    if mine is not None and theirs is not None and mine and theirs and not mine & theirs:
        return f"diagnosis of '{other.image}' is {_shown(other)}, but {_shown(one)}"
    for name in _TELLING:
        mine, theirs = getattr(one, name), getattr(other, name)
        if None not in (mine, theirs) and mine != theirs:
            return f"{name} of '{other.image}' is {theirs}, but {mine}"
    return None


def _shown(row: Row) -> str:
    if row.diagnosis.reading != "missing":
        return row.diagnosis.word
    return "another one"


def _refuse_problems(rows: Iterable[Row]) -> None:
    for row in rows:
        if row.problem:
            raise DataError(f"{row.where}: {row.problem}")


def _key(row: Row) -> str:
    """What a row is joined by: the image id; in melfed's own tables the same path below two folders is two images."""
    if row.table.layout == "melfed":
        return f"{row.table.folder}/{row.image}"
    stem, _, suffix = row.image.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in IMAGE_SUFFIXES else row.image


def _by_key(tables: Iterable[TableRows], strict: bool) -> dict[str, list[Row]]:
    """The rows of several tables by image; strictly, at most one of each table."""
    found: dict[str, list[Row]] = {}
    for _, rows in tables:
        for row in rows:
            same = found.setdefault(_key(row), [])
            if strict and same and same[-1].table is row.table:
                refuse_duplicate(row, same[-1])
            same.append(row)
    return found


def _completed(truths: Sequence[Row], additions: Sequence[Row]) -> Row:
    """Strictly: the one row of an image."""
    rows = [*truths, *additions]
    if len(rows) == 1:
        return rows[0]
    for number, other in enumerate(rows):
        for one in rows[:number]:
            if text := contradiction(one, other):
                raise DataError(f"{other.where}: {text} in {one.where}; mend one or keep one of the tables")
    return _union(rows)


def _with_additions(row: Row, additions: Sequence[Row]) -> list[Row]:
    """Leniently: a row of a truth with what the additions say of its image, for each patient that they name.

    Additions of another patient than the truth's, or of nobody where somebody is named, say nothing of it.
    """
    facts = [each for each in additions if not each.table.has_patients]
    owned: dict[str | None, list[Row]] = defaultdict(list)
    for each in additions:
        if each.table.has_patients:
            owned[each.patient].append(each)
    if row.patient is not None:
        return [_added(row, [*facts, *owned.get(row.patient, ())])]
    nobodys = owned.pop(None, [])
    return [_added(row, [*facts, *own]) for own in owned.values()] or [_added(row, [*facts, *nobodys])]


def _added(row: Row, additions: Sequence[Row]) -> Row:
    """Leniently: one row of a truth and its additions, or all in one with a problem."""
    if not additions:
        return row
    rows = [row, *additions]
    problem = next((each.problem for each in rows if each.problem), None) or _contradictory(rows)
    merged = _union(rows)
    merged.problem = problem
    return merged


def _merged(rows: Sequence[Row]) -> list[Row]:
    """Leniently: one row of one patient's for an image, or all of them with a problem."""
    bad, rows = [row for row in rows if row.problem], [row for row in rows if not row.problem]
    if bad or len(rows) < 2:
        return [*bad, *(_merged(rows) if len(rows) > 1 else rows)]
    differ = any(getattr(row, name) != getattr(rows[0], name) for row in rows[1:] for name in _FACTS)
    if problem := _contradictory(rows) or (CONTRADICTION if differ and _same_table(rows) else None):
        return [replace(row, problem=problem) for row in rows]
    return [_union(rows)]


def _same_table(rows: Sequence[Row]) -> bool:
    return len({row.table.path for row in rows}) < len(rows)


def _contradictory(rows: Sequence[Row]) -> str | None:
    pairs = ((one, other) for number, other in enumerate(rows) for one in rows[:number])
    return CONTRADICTION if any(contradiction(one, other) for one, other in pairs) else None


def _union(rows: Sequence[Row]) -> Row:
    """The first of several rows about one image with what all of them say; order makes no difference to facts."""
    merged = replace(rows[0])
    merged.diagnosis = combine([row.diagnosis for row in rows])
    stated = [row.stated for row in rows if row.stated is not None]
    merged.stated = frozenset.intersection(*stated) if stated else None
    for name in (*_TELLING, *_OTHERS):
        values = {value for row in rows if (value := getattr(row, name)) is not None}
        setattr(merged, name, values.pop() if len(values) == 1 else None)
    return merged


def _of_lesions(tables: Sequence[TableRows], strict: bool) -> list[TableRows]:
    """Truths whose rows are of lesions, with a row for each image that an addition names of the lesion."""
    truths: dict[str | None, list[Row]] = defaultdict(list)
    for table, rows in tables:
        if table.kind is not None and table.kind.role == "lesion truth":
            for row in rows:
                truths[row.lesion].append(row)
    if not truths:
        return []
    if strict:
        for lesion, same in truths.items():
            if lesion is not None and len(same) > 1:
                refuse_duplicate(same[1], same[0])
    images = [
        (table, [_with_lesion(row, own) for row in rows if (own := _of_its_patient(row, truths.get(row.lesion, ())))])
        for table, rows in tables
        if not table.truth
    ]
    return [(table, rows) for table, rows in images if rows]


def _of_its_patient(image: Row, truths: Sequence[Row]) -> list[Row]:
    """What is said of the image's lesion: of its own patient, or where no patients are named, of whoever has it."""
    if image.lesion is None:
        return []
    return [truth for truth in truths if not truth.table.has_patients or truth.patient == image.patient]


def _with_lesion(image: Row, truths: Sequence[Row]) -> Row:
    """The row of an image with the diagnosis of its lesion."""
    problem = image.problem or next((truth.problem for truth in truths if truth.problem), None)
    diagnosis = combine([truth.diagnosis for truth in truths])
    return replace(image, diagnosis=diagnosis, problem=problem or (_contradictory(truths) if truths[1:] else None))
