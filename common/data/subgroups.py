"""Subgroups of patients that a study may be judged in: fixed, public cells, of which each patient is in one.

The cells of an attribute are the same at every clinic and in every study, whatever patients there are: a cell that
nobody is in stays a cell, and what a table does not say is a cell of its own. So neither their number nor their names
tell of anybody, and clinics add them up without asking each other.

All images of a patient (more exactly: of what is counted together) are in the cell of its first image by name. Another
patient's rows have no part in it.

`source` has no cells here: clinics share no list of sources, so its cells are the clinics themselves, whose patients
are apart anyway (`BY_CLINIC`).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from melfed.common.data.records import LesionRecord
from melfed.common.data.vocabulary.sex import SEXES
from melfed.common.data.vocabulary.sites import SITES
from melfed.common.data.vocabulary.skin import FITZPATRICK

UNKNOWN: Final = "unknown"
BY_CLINIC: Final = "source"
"""The attribute whose cells are the clinics."""
AGES: Final = (30.0, 50.0, 70.0)
"""Years at which the bands of age begin, but for the first."""


@dataclass(frozen=True)
class Attribute:
    """Something that patients differ in.

    Attributes:
        cells: names of all its cells; the last one is `UNKNOWN`.
        place: returns the number of a record's cell.
    """

    cells: tuple[str, ...]
    place: Callable[[LesionRecord], int]


def _age(record: LesionRecord) -> int:
    age = record.age
    return bisect_right(AGES, age) if age is not None and math.isfinite(age) and age >= 0 else len(AGES) + 1


def _of(words: Sequence[object], value: Callable[[LesionRecord], object]) -> Callable[[LesionRecord], int]:
    numbers = {word: number for number, word in enumerate(words)}
    return lambda record: numbers.get(value(record), len(words))


ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "age": Attribute(("under 30", "30 to 49", "50 to 69", "70 and over", UNKNOWN), _age),
    "sex": Attribute((*SEXES, UNKNOWN), _of(SEXES, lambda record: record.sex)),
    "site": Attribute((*SITES, UNKNOWN), _of(SITES, lambda record: record.site)),
    "skin_type": Attribute(
        (*FITZPATRICK, UNKNOWN), _of(range(1, len(FITZPATRICK) + 1), lambda record: record.skin_type)
    ),
}
"""All attributes whose cells lie within clinics, by the name that a study states."""


def cells_of(records: Sequence[LesionRecord], together: Sequence[str], attribute: str) -> npt.NDArray[np.int64]:
    """Return the number of the cell that each image counts in, shape (images,).

    Args:
        records: one an image.
        together: the name of what each image is counted with, its patient for example.
        attribute: one of `ATTRIBUTES`.

    >>> from melfed.common.data.records import LesionRecord
    >>> facts = (0, "nv", "p", None, None, 42.0)
    >>> records = [LesionRecord(name, *facts, sex, None, "here") for name, sex in (("b", "male"), ("a", "female"))]
    >>> cells_of(records, ["p", "p"], "sex").tolist()
    [1, 1]
    """
    place = ATTRIBUTES[attribute].place
    first: dict[str, LesionRecord] = {}
    for name, record in zip(together, records, strict=True):
        if name not in first or record.image < first[name].image:
            first[name] = record
    cell = {name: place(record) for name, record in first.items()}
    return np.array([cell[name] for name in together], np.int64)


def cell_names(attributes: Sequence[str]) -> tuple[str, ...]:
    """Return `ATTRIBUTE/NUMBER` of every cell of some attributes, in order; `BY_CLINIC` has none."""
    within = (name for name in attributes if name != BY_CLINIC)
    return tuple(f"{name}/{number}" for name in within for number in range(len(ATTRIBUTES[name].cells)))
