"""How groups are dealt out to virtual clinics: the schemes of `partition.by` but `source`.

The partitioners of flwr-datasets deal out rows, and would have to be wrapped in a table of groups, with `datasets` and
PyArrow behind it, for the few lines of NumPy that the sampling takes; they are therefore written here. A scheme draws
from the generator that it is given, and from nothing else.

- `iid`: groups are shuffled and dealt out in turn.
- `label_dirichlet`: of the groups with a positive image, and of those without, each clinic receives a share drawn from
  Dir(α, …, α) (Yurochkin et al. 2019, arXiv 1905.12022). A small α skews labels, and sizes too.
- `size_dirichlet`: each clinic receives a share of all groups drawn from Dir(α, …, α) (Li et al. 2021,
  arXiv 2102.02079), whatever their labels.
- `size_zipf`, `size_linear`, `size_square`, `size_exponential`: the k-th clinic's share of all groups is proportional
  to k^-α, k, k² and e^k, whatever their labels; the last three are those of the partitioners of flwr-datasets.
- `pathological`: each clinic has groups of `classes` classes, and the groups of a class are divided evenly among the
  clinics that have it (McMahan et al. 2017, arXiv 1602.05629; "#C = k" of Li et al. 2021). A class is a diagnosis, not
  what the study counts as positive, of which there are but two; see `class_of`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melfed.common.data.records import LesionRecord
from melfed.common.errors import StudyError
from melfed.common.study.protocol import PartitionScheme, PartitionSpec

Owners = NDArray[np.intp]


@dataclass(frozen=True)
class Dealt:
    """What is dealt out: for each group whether it has a positive image, shape (groups,), and its class."""

    positive: NDArray[np.bool_]
    classes: Sequence[str]


Deal = Callable[[Dealt, int, PartitionSpec, np.random.Generator], Owners]
"""Returns each group's clinic, 0 to clinics - 1, shape (groups,)."""


def class_of(records: Sequence[LesionRecord]) -> str:
    """Return a group's class: the diagnosis of most of its images, of its positive ones where it has any.

    Of several as frequent it is the first by name. An image whose diagnosis is not known counts as "positive" or
    "negative".
    """
    kept = [record for record in records if record.target] or records
    counts = Counter(record.diagnosis or ("positive" if record.target else "negative") for record in kept)
    return min(counts, key=lambda name: (-counts[name], name))


def _in_turn(dealt: Dealt, clinics: int, _spec: PartitionSpec, generator: np.random.Generator) -> Owners:
    return generator.permutation(np.arange(len(dealt.positive)) % clinics)


def _skew_labels(dealt: Dealt, clinics: int, spec: PartitionSpec, generator: np.random.Generator) -> Owners:
    owners = np.empty(len(dealt.positive), dtype=np.intp)
    for label in (False, True):
        chosen = dealt.positive == label
        shares = generator.dirichlet(np.full(clinics, spec.alpha))
        owners[chosen] = by_shares(int(np.sum(chosen)), shares, generator)
    return owners


def _skew_sizes(dealt: Dealt, clinics: int, spec: PartitionSpec, generator: np.random.Generator) -> Owners:
    return by_shares(len(dealt.positive), generator.dirichlet(np.full(clinics, spec.alpha)), generator)


def _by_rank(log_size: Callable[[NDArray[np.float64], PartitionSpec], NDArray[np.float64]]) -> Deal:
    """Return the scheme by which the k-th clinic's size is proportional to the exponential of a function of k."""

    def deal(dealt: Dealt, clinics: int, spec: PartitionSpec, generator: np.random.Generator) -> Owners:
        logs = log_size(np.arange(1, clinics + 1, dtype=np.float64), spec)
        sizes = np.exp(logs - logs.max())  # e^1000 is no number
        return by_shares(len(dealt.positive), sizes / sizes.sum(), generator)

    return deal


def _pathological(dealt: Dealt, clinics: int, spec: PartitionSpec, generator: np.random.Generator) -> Owners:
    names, numbers = np.unique(np.array(dealt.classes), return_inverse=True)
    each = spec.classes or 1
    if each > len(names):
        raise StudyError(
            f"partition.classes is {each}, but there are {len(names)} classes ({', '.join(names)}); ask for fewer"
        )
    if clinics * each < len(names):
        raise StudyError(
            f"{clinics} clinics of {each} classes have no room for {len(names)} ({', '.join(names)}): raise "
            "partition.clinics or partition.classes, or leave diagnoses out"
        )
    holders = _holders(len(names), clinics, each, generator)
    owners = np.empty(len(numbers), dtype=np.intp)
    for number, clinics_of_class in enumerate(holders):
        chosen = np.flatnonzero(numbers == number)
        # Who gets the one group more is drawn too.
        places = generator.permutation(clinics_of_class)
        owners[chosen] = generator.permutation(places[np.arange(len(chosen)) % len(places)])
    return owners


def _holders(classes: int, clinics: int, each: int, generator: np.random.Generator) -> list[list[int]]:
    """Draw which clinics have each class: every clinic has `each`, and classes as many clinics as others, or one more.

    Each clinic takes those classes that the fewest have so far, ties drawn; so no class is left to nobody.
    """
    holders: list[list[int]] = [[] for _ in range(classes)]
    for clinic in generator.permutation(clinics):
        ties = generator.random(classes)
        fewest = sorted(range(classes), key=lambda number: (len(holders[number]), ties[number]))
        for number in fewest[:each]:
            holders[number].append(int(clinic))
    return holders


def by_shares(count: int, shares: NDArray[np.float64], generator: np.random.Generator) -> Owners:
    """Return the owners, 0 to clinics - 1, of `count` groups in random order; the clinics' shares add up to 1.

    >>> owners = by_shares(10, np.array([0.5, 0.3, 0.2]), np.random.default_rng(0))
    >>> np.bincount(owners).tolist()
    [5, 3, 2]
    """
    borders = np.rint(np.cumsum(shares)[:-1] * count)
    return generator.permutation(np.searchsorted(borders, np.arange(count), side="right"))


DEALS: Mapping[PartitionScheme, Deal] = {
    "iid": _in_turn,
    "label_dirichlet": _skew_labels,
    "size_dirichlet": _skew_sizes,
    "pathological": _pathological,
    "size_zipf": _by_rank(lambda rank, spec: -spec.alpha * np.log(rank)),
    "size_linear": _by_rank(lambda rank, _spec: np.log(rank)),
    "size_square": _by_rank(lambda rank, _spec: 2 * np.log(rank)),
    "size_exponential": _by_rank(lambda rank, _spec: rank),
}
