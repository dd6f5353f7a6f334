"""Readers of tables: a file a data set or format, found by the columns of a table, never by the names of files.

A reader is a module with `KINDS`, and its name in `_MODULES`.
"""

from importlib import import_module
from typing import Final

from melfed.common.data.readers.kinds import TableKind

_MODULES: Final = (
    *("isic2016", "isic2019", "isic2018", "isic2020", "isic2017", "ham10000", "pad_ufes_20", "derm7pt", "bcn20000"),
    *("ph2", "ddi", "fitzpatrick17k", "melfed", "isic_archive", "isic2024", "milk10k"),
)

READERS: Final[dict[str, tuple[TableKind, ...]]] = {
    name: import_module(f"{__name__}.{name}").KINDS for name in _MODULES
}
"""The kinds of tables of each reader, by its name."""

KINDS: Final = tuple(
    sorted(
        (kind for kinds in READERS.values() for kind in kinds), key=lambda kind: (kind.role == "addition", kind.near)
    )
)
"""All of them, in the order in which a table is tried: truths first, and one whose columns hold another's before it."""
