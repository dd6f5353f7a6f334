"""Age, sex and site of lesions as numbers for a network."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from melfed.common.data.records import LesionRecord
from melfed.common.data.vocabulary.sites import SITES

# Round public numbers, not statistics of anybody's patients: those would have to be paid for in private training.
AGE_CENTRE: Final = 50.0
AGE_SCALE: Final = 20.0
SEXES: Final = ("male", "female")

METADATA_FEATURES: Final = 2 + len(SEXES) + 1 + len(SITES) + 1
"""Length of an encoded record: age and whether it is missing; sex or unknown; site or unknown."""


def encode_metadata(records: Sequence[LesionRecord]) -> npt.NDArray[np.float32]:
    """Encode age, sex and site of lesions.

    Args:
        records: one an image.

    Returns:
        Shape (n, METADATA_FEATURES). The columns: age as (years - 50) / 20, or 0 where missing; 1 where age is missing;
        one column each for male, female, sex unknown; one for each of `SITES`, and one for any other or unknown site.
    """
    encoded = np.zeros((len(records), METADATA_FEATURES), np.float32)
    first_sex, first_site = 2, 2 + len(SEXES) + 1
    for row, record in zip(encoded, records, strict=True):
        if record.age is None:
            row[1] = 1
        else:
            row[0] = (record.age - AGE_CENTRE) / AGE_SCALE
        row[first_sex + _position(SEXES, record.sex)] = 1
        row[first_site + _position(SITES, record.site)] = 1
    return encoded


def _position(vocabulary: tuple[str, ...], word: str | None) -> int:
    """Return the word's place in the vocabulary, or the place after its end."""
    return vocabulary.index(word) if word in vocabulary else len(vocabulary)
