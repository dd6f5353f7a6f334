"""Long lists of few different values: a function of a value is called once for all items that are equal to it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
K = TypeVar("K")


class Coded(list[T]):
    """A list, not to be changed, that knows its different values, and for each item which of them it is.

    Attributes:
        values: the different values.
        codes: for each item the index of its value.
    """

    def __init__(self, values: Sequence[T], codes: npt.NDArray[np.uint32]) -> None:
        """Make the list `[values[code] for code in codes]`."""
        self.values = list(values)
        self.codes = codes
        items = np.empty(len(self.values), object)
        items[:] = self.values
        super().__init__(items[codes].tolist())

    def __setitem__(self, *_: object) -> None:
        raise TypeError("make a list of it before you change it")


def each(function: Callable[[K], T], cells: Sequence[K | None]) -> list[T | None]:
    """Return what a function makes of each cell, None of None; each of equal cells is handed to it once."""
    if isinstance(cells, Coded):
        return Coded([None if value is None else function(value) for value in cells.values], cells.codes)
    made: dict[K | None, T | None] = {cell: function(cell) for cell in set(cells) if cell is not None}
    made[None] = None
    return [made[cell] for cell in cells]


def rows_of(columns: Sequence[Sequence[K]]) -> Sequence[tuple[K, ...]]:
    """Return the items of several columns side by side."""
    if not all(isinstance(column, Coded) for column in columns) or len(columns) < 2:
        return list(zip(*columns, strict=True))
    coded = [column for column in columns if isinstance(column, Coded)]
    numbers = np.zeros(len(coded[0]), np.int64)
    for column in coded:
        numbers = numbers * len(column.values) + column.codes
        _, firsts, codes = np.unique(numbers, return_index=True, return_inverse=True)
        numbers = codes.astype(np.int64)  # small again, however many columns there are
    return Coded([tuple(column[first] for column in coded) for first in firsts.tolist()], codes.astype(np.uint32))
