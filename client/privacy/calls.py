"""Which patients are computed together, so that nobody's gradient depends on who else is there.

Kernels choose how to compute from the shapes that they get, and round differently then. Whoever makes the weights can
have a gradient's direction hang on that rounding (features that are small differences of large numbers), and then one
patient more, in a batch that was smaller without it, would move each of the others by up to 2C. Therefore:

- **One shape.** A call of `PrivateGradients.add` holds patients of equally many rows, and always as many patients;
  where some are missing, others are computed again in their places and left out. With equal shapes, a patient's
  gradient is the same to the last bit at any place and in any company (checked in the tests; the kernels promise
  nothing), so it is a function of that patient alone. That holds where the rows are a power of two and `LANES` at
  least: of five or fifteen rows the last ones are computed by other instructions than the first ones.
- **Random order.** Sums over patients round as well, by what `melfed.client.privacy.shares` bounds a call. Patients are
  shuffled, so that one more changes two calls at most: draw an order of m + 1 patients, take one away, and put the last
  one in its place; that is a random order of the other m. All other calls are the same, and are added in float64.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

LANES: Final = 4
"""Fewest rows of a call."""


class Call(NamedTuple):
    """What one call of `PrivateGradients.add` computes."""

    rows: Indices
    """Numbers of the rows, a power of two of them: patients · rows of each, and what is there to make them so many."""
    patients: Indices
    """Number of each row's patient in this call, from 0; below 0 where it is there for the shape alone."""


def calls(starts: Indices, chosen: Indices, limit: int, random: np.random.Generator) -> list[Call]:
    """Return the calls that compute some patients.

    Args:
        starts: where each patient's rows begin, and the end of the last, (patients + 1,).
        chosen: the patients to compute, each at most once.
        limit: rows of a call, as `rows_of_call` returns them; a patient with more is a call of its own. It must not
            depend on which patients there are.
        random: `melfed.client.privacy.sampling.secure_generator()`; in tests any generator.
    """
    counts = starts[chosen + 1] - starts[chosen]
    result = []
    for each in np.unique(counts[counts > 0]):
        alike = random.permutation(chosen[counts == each])
        together = max(1, limit // int(each))
        for first in range(0, len(alike), together):
            some = alike[first : first + together]
            numbers = np.arange(together)
            numbers[len(some) :] -= together + len(some)  # any numbers below 0, each another
            filled = np.resize(some, together)
            rows = (starts[filled][:, None] + np.arange(each)).ravel()
            more = _power_of_two(len(rows)) - len(rows)
            # Each a patient of its own, with numbers that are not in use yet.
            fillers = -together - 1 - np.arange(more)
            patients = np.concatenate([np.repeat(numbers, each), fillers])
            result.append(Call(np.concatenate([rows, np.full(more, rows[0])]), patients))
    return result


def rows_of_call(most: int, expected: float) -> int:
    """Return how many rows a call should have: a power of two, for little more than are expected.

    Args:
        most: that suit the device.
        expected: rows of a step by public numbers.
    """
    suited = 1 << max(most, LANES).bit_length() - 1
    return min(suited, _power_of_two(math.ceil(min(expected, suited))))


def _power_of_two(least: int) -> int:
    return max(LANES, 1 << max(least - 1, 0).bit_length())
