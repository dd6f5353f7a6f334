"""Readers of tables: a file a data set or format, found by the columns of a table, never by the names of files.

A reader is a module with `KINDS`.
"""

from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.registry import entries

READERS: Final[dict[str, tuple[TableKind, ...]]] = dict(entries(__name__, __path__, "KINDS"))
"""The kinds of tables of each reader, by its name."""

KINDS: Final = tuple(
    sorted(
        (kind for kinds in READERS.values() for kind in kinds),
        key=lambda kind: (kind.role == "addition", kind.near, -len(kind.columns)),
    )
)
"""All of them, in the order in which a table is tried: truths first, and one that is known by more columns before."""
