"""Robust aggregation: means that a few false updates, whatever they hold, cannot lead astray.

Trimmed mean and median: Yin et al., "Byzantine-robust distributed learning" (arXiv 1803.01498). Krum and Multi-Krum:
Blanchard et al., "Machine learning with adversaries" (arXiv 1703.02757). In all of them clinics weigh the same,
whatever number of images they claim. They need all updates of a round at once: memory is O(clinics × model), where the
weighted mean needs O(model). Beyond that they work on `BLOCK` values of each update at a time. They are tested against
Flower's strategies of the same names, given updates of equal weight.

How many false updates they stand, of n: Krum and Multi-Krum f; the median fewer than n / 2; the trimmed mean as many as
it leaves out at either end, which is one at least. A round with fewer than `replies_needed` updates fails.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from melfed.common.errors import StudyError
from melfed.common.study.protocol import FederationSpec
from melfed.common.tensors import Array, Tensors

BLOCK = 1 << 16
Float64 = npt.NDArray[np.float64]


def replies_needed(spec: FederationSpec) -> int:
    """Return how many updates the study's aggregation needs at least.

    For Krum 2 f + 3 (there: 2 f + 2 < n). For trimmed mean and median 3: of two nobody can tell which is the false one.
    """
    if spec.robust == "none":
        return 1
    return 2 * spec.robust_byzantine + 3 if spec.robust in {"krum", "multi_krum"} else 3


def cohort_size(spec: FederationSpec, clinics: int) -> int:
    """Return how many of so many clinics a round asks (`federation.cohort`)."""
    return max(1, round(spec.cohort * clinics))


def clinics_needed(spec: FederationSpec, clinics: int) -> int:
    """Return how many of a run's clinics must take part, so that a round's cohort is enough for the aggregation.

    Raises:
        StudyError: not even all of them are enough: every round would train, and charge privacy, for nothing.
    """
    needed = replies_needed(spec)
    for number in range(1, clinics + 1):
        if cohort_size(spec, number) >= needed:
            return number
    asked = cohort_size(spec, clinics)
    cure = f"take {needed} clinics or more" + (", and federation.cohort 1" if spec.cohort < 1 else "")
    if clinics >= needed:
        cure = f"set federation.cohort to {math.ceil(100 * needed / clinics) / 100:g} or more"
    if needed > 3 and asked >= 5:
        cure += f", or federation.robust_byzantine to {(asked - 3) // 2}"
    elif needed > 3 and asked >= 3:
        cure += ", or choose federation.robust median, which needs 3"
    raise StudyError(
        f"federation.robust {spec.robust} needs {needed} updates a round, and of {clinics} clinics a round asks {asked}"
        f"; {cure}"
    )


def update_norm(update: Mapping[str, Array], model: Mapping[str, Array]) -> float:
    """Return the L2 norm of an update less the global model it began from (same names and shapes)."""
    squares = 0.0
    for name, tensor in update.items():
        for ours, theirs in zip(_blocks(model[name]), _blocks(tensor), strict=True):
            change = theirs.astype(np.float64) - ours
            squares += float(change @ change)
    return float(np.sqrt(squares))


def clipped(update: Tensors, model: Tensors, longest: float) -> Tensors:
    """Return an update, shortened towards the global model where it is further from it than `longest` (L2 norm)."""
    norm = update_norm(update, model)
    if norm <= longest:
        return update
    share = longest / norm
    return {
        name: (model[name] + share * (tensor.astype(np.float64) - model[name])).astype(np.float32)
        for name, tensor in update.items()
    }


def trimmed_mean(updates: Sequence[Tensors], trim: float) -> Tensors:
    """Return the mean of each value without the smallest and as many largest (`trimmed`); clinics weigh the same."""
    cut = trimmed(len(updates), trim)
    return _by_value(updates, lambda block: np.sort(block, axis=0)[cut : len(updates) - cut].mean(axis=0))


def trimmed(updates: int, trim: float) -> int:
    """Return how many of n values are left out at either end: ⌊trim × n⌋, but at least one of three or more.

    Rounding down alone, as is usual, would make it a plain mean at the default trim of 0.1 with fewer than 10 clinics.
    """
    # A hair more, since 0.29 × 100 is 28.999999999999996.
    return min(max(1, math.floor(trim * updates + 1e-9)), (updates - 1) // 2)


def median(updates: Sequence[Tensors]) -> Tensors:
    """Return the median of each value; clinics weigh the same.

    >>> updates = [{"head": np.array([value], np.float32)} for value in (1.0, 2.0, 1e9)]
    >>> median(updates)["head"].tolist()
    [2.0]
    >>> trimmed_mean(updates, trim=0.1)["head"].tolist()
    [2.0]
    """
    return _by_value(updates, lambda block: np.asarray(np.median(block, axis=0), np.float64))


def krum_order(updates: Sequence[Tensors], byzantine: int) -> list[int]:
    """Return the updates' indices, the most trustworthy first.

    Each is scored by the sum of the squared distances to its n - f - 2 nearest others (at least one).

    >>> updates = [{"head": np.array([value], np.float32)} for value in (1.0, 50.0, 1.1, 0.9, 1.05)]
    >>> krum_order(updates, byzantine=1)
    [4, 0, 2, 3, 1]
    """
    distances = _squared_distances(updates)
    nearest = max(1, len(updates) - byzantine - 2)
    # The nearest of all is an update itself, at distance zero.
    scores = np.sort(distances, axis=1)[:, 1 : nearest + 1].sum(axis=1)
    return [int(index) for index in np.argsort(scores, kind="stable")]


def _squared_distances(updates: Sequence[Tensors]) -> Float64:
    distances = np.zeros((len(updates), len(updates)))
    for name in updates[0]:
        for block in _stacks([update[name] for update in updates]):
            for i, one in enumerate(block):
                rest = block[i + 1 :] - one
                squares = (rest * rest).sum(axis=1)
                distances[i, i + 1 :] += squares
                distances[i + 1 :, i] += squares
    return distances


def _by_value(updates: Sequence[Tensors], reduce: Callable[[Float64], Float64]) -> Tensors:
    """Reduce n values to one at each place of the model."""
    result: Tensors = {}
    for name, first in updates[0].items():
        blocks = [reduce(block) for block in _stacks([update[name] for update in updates])]
        flat = np.concatenate(blocks) if blocks else np.zeros(0)
        result[name] = flat.astype(np.float32).reshape(first.shape)
    return result


def _stacks(tensors: Sequence[Array]) -> Iterator[Float64]:
    """Yield the same block of every tensor, as rows (n, values)."""
    for blocks in zip(*(_blocks(tensor) for tensor in tensors), strict=True):
        yield np.stack(blocks).astype(np.float64)


def _blocks(tensor: Array) -> Iterator[Array]:
    flat = tensor.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]
