"""What a reader is: the columns that a table is known by, and how its lines become rows."""

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row

ANY_ID = re.compile(r"(?s).+")
"""Matches every id: those of the layout are unique in it."""

NO_ID = re.compile(r"(?!)")
"""Matches none: equal ids of several sources, or of several patients, say nothing."""

PUBLISHED_PATIENT = re.compile(r"ip_\d{7}")
"""Matches the ids of patients that the ISIC archive gives out, unique in it, as they also stand in other tables."""

PUBLISHED_LESION = re.compile(r"(il|ham|bcn|msk\d*)_\d{7}")
"""Likewise of lesions; nine lesions of HAM10000 have images in two of its sources."""

Role = Literal["truth", "addition", "lesion truth"]


@dataclass(frozen=True)
class TableKind:
    """A kind of table.

    A table is the *truth* of its layout (it says what images show) or an *addition* that only completes a truth.

    Attributes:
        layout: name of the data set, or of the format.
        columns: what it is known by, as `columns.column_key` writes it; all of them must be there.
        read: returns the rows of its lines.
        role: `truth`, `addition`, or `lesion truth` where its rows are of lesions, whose images an addition names.
        optional: further columns that `read` looks at; those of `columns.NAMES` need not be said.
        patients: matches the ids of patients that are unique in the layout, whatever the source.
        lesions: matches such ids of lesions, whatever the patient.
        source: what the images come from where no column says it; None for the name of the table's folder.
        matches: instead of `columns`, whether a table with these keys is of the kind.
        headerless: patterns of the cells of a first line, where the table is also published without a header;
            its columns then are `columns`.
        open_rows: whether rows without a diagnosis are usual: they are left out rather than refused.
        notes: what people should know about rows of the kind, from its reader.
    """

    layout: str
    columns: tuple[str, ...]
    read: Callable[[Lines], list[Row]]
    role: Role = "truth"
    optional: tuple[str, ...] = ()
    patients: re.Pattern[str] = ANY_ID
    lesions: re.Pattern[str] = ANY_ID
    source: str | None = None
    matches: Callable[[AbstractSet[str]], bool] | None = None
    headerless: tuple[re.Pattern[str], ...] = ()
    open_rows: bool = False
    notes: Callable[[Sequence[Row]], tuple[str, ...]] | None = None

    @property
    def near(self) -> bool:
        """Whether names of columns that are only near are enough."""
        return self.matches is not None

    def knows(self, keys: AbstractSet[str]) -> bool:
        """Whether a table with these columns is of the kind."""
        return self.matches(keys) if self.matches else keys >= set(self.columns)

    def reads(self, lines: Sequence[Sequence[str]]) -> bool:
        """Whether the first lines of a file hold cells of the kind, and no header.

        The first one names an image, and any of them is whole: no line decides by itself what the others are, but for
        a first one that does not even name an image.
        """
        if not lines or not self.headerless or not self.headerless[0].fullmatch(lines[0][0].strip()):
            return False
        return any(
            len(cells) == len(self.headerless)
            and all(pattern.fullmatch(cell.strip()) for pattern, cell in zip(self.headerless, cells, strict=True))
            for cells in lines
        )
