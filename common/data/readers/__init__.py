"""Readers of tables: a file a data set or format, found by the columns of a table, never by the names of files.

A reader is a module with `KINDS`.
"""

from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.registry import entries

READERS: Final[dict[str, tuple[TableKind, ...]]] = dict(entries(__name__, __path__, "KINDS"))
"""The kinds of tables of each reader, by its name."""

_LATER: Final = (
    *("isic2016", "isic2019", "isic2018", "isic2020", "isic2017", "ham10000", "pad_ufes_20", "derm7pt", "bcn20000"),
    *("ph2", "ddi", "fitzpatrick17k", "melfed", "isic_archive", "isic2024", "milk10k"),
)
"""Readers whose columns others have too, in the order in which they are tried; a reader that is not named here is tried
before them."""


def _place(reader: str) -> int:
    return _LATER.index(reader) if reader in _LATER else -1


KINDS: Final = tuple(
    kind
    for _, kind in sorted(
        ((reader, kind) for reader, kinds in READERS.items() for kind in kinds),
        key=lambda each: (each[1].role == "addition", each[1].near, _place(each[0])),
    )
)
"""All of them, in the order in which a table is tried: truths first, and one whose columns hold another's before it."""
