"""Mergeable sufficient statistics of an evaluation set: what a clinic reports instead of the scores of its patients."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.intervals import FloatArray, kish_size

IntArray = npt.NDArray[np.int64]

BINS = 1024  # 1022 bins of equal width in logit over [-12, 12], and one beyond each end
CALIBRATION_BINS = 15
MAX_IMAGES = 10_000_000
UNIT = 2.0**-36  # of the sums below

# Bin b holds the probabilities in [EDGES[b-1], EDGES[b]). Logit 0, the decision threshold, is an edge: the middle one.
EDGES: FloatArray = 1 / (1 + np.exp(-np.linspace(-12.0, 12.0, BINS - 1)))
EDGES[BINS // 2 - 1] = 0.5
EDGES.flags.writeable = False
CALIBRATION_EDGES: FloatArray = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
CALIBRATION_EDGES.flags.writeable = False


def check_scores(
    probabilities: npt.ArrayLike, targets: npt.ArrayLike, groups: Sequence[Hashable]
) -> tuple[FloatArray, npt.NDArray[np.bool_], IntArray]:
    """Scores of an evaluation set as arrays of one length (images,): probabilities, targets, group numbers from 0.

    Raises:
        DataError: lengths differ, a probability is not a number in [0, 1], or a target is not 0 or 1.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(targets)
    if p.ndim != 1 or y.shape != p.shape or len(groups) != len(p):
        raise DataError(
            f"scores: {p.shape} probabilities, {y.shape} targets and {len(groups)} groups; give one of each an image"
        )
    wrong = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if wrong.size:
        raise DataError(f"scores: probability {p[wrong[0]]} at position {wrong[0]} is not in [0, 1]; check the model")
    if not np.isin(y, (0, 1)).all():
        raise DataError("scores: a target is neither 0 nor 1; check the table's targets")
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    return p, y.astype(np.bool_), np.array([number[group] for group in groups], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """Counts and sums from which every metric of an evaluation set follows; ``a + b`` merges two sets.

    Everything is an integer (sums of probabilities and squared errors are in units of 2^-36, so that a mean is off by
    less than 1e-11), hence merging is exact, associative and commutative: the pooled metrics do not depend on the
    order in which clinics answer. Merged histograms must not share a group.

    Attributes:
        positives: melanomas by score bin, shape (BINS,).
        negatives: other images by score bin, shape (BINS,).
        calibration_counts: images by calibration bin of equal width in probability, shape (15,).
        calibration_positives: melanomas among them, shape (15,).
        calibration_sums: sums of their probabilities, units of 2^-36, shape (15,).
        squared_error: sum over images of (probability - target)², units of 2^-36, shape (1,).
        groups: number of groups (patients), shape (1,).
        group_squares: sums over groups of (images of that class in the group)², for negatives and positives,
            shape (2,).

    Raises:
        DataError: on construction, where the arrays contradict each other or could come from no evaluation set.
    """

    positives: IntArray
    negatives: IntArray
    calibration_counts: IntArray
    calibration_positives: IntArray
    calibration_sums: IntArray
    squared_error: IntArray
    groups: IntArray
    group_squares: IntArray

    def __post_init__(self) -> None:
        for field in fields(self):
            array = getattr(self, field.name)
            _check_array(field.name, array)
            frozen = array.astype(np.int64)  # a copy: the caller's array stays the caller's
            frozen.flags.writeable = False
            object.__setattr__(self, field.name, frozen)
        _check_totals(self)
        _check_scores_agree(self)

    @classmethod
    def from_scores(
        cls, probabilities: npt.ArrayLike, targets: npt.ArrayLike, groups: Sequence[Hashable]
    ) -> "ScoreHistogram":
        """Histogram of scored images; all arguments have shape (images,), ``groups`` holds any hashable ids.

        Raises:
            DataError: lengths differ, a probability is not a number in [0, 1], or a target is not 0 or 1.
        """
        p, y, group = check_scores(probabilities, targets, groups)
        score_bin = np.searchsorted(EDGES, p, side="right")
        table_bin = np.searchsorted(CALIBRATION_EDGES, p, side="right")
        units = np.rint(p / UNIT).astype(np.int64)
        sums = np.zeros(CALIBRATION_BINS, dtype=np.int64)
        np.add.at(sums, table_bin, units)
        return cls(
            positives=np.bincount(score_bin[y], minlength=BINS),
            negatives=np.bincount(score_bin[~y], minlength=BINS),
            calibration_counts=np.bincount(table_bin, minlength=CALIBRATION_BINS),
            calibration_positives=np.bincount(table_bin[y], minlength=CALIBRATION_BINS),
            calibration_sums=sums,
            squared_error=np.rint((p - y) ** 2 / UNIT).astype(np.int64).sum(keepdims=True),
            groups=np.array([group.max(initial=-1) + 1]),
            group_squares=np.array([(np.bincount(group[chosen]) ** 2).sum() for chosen in (~y, y)], dtype=np.int64),
        )

    @classmethod
    def empty(cls) -> Self:
        """The histogram of no image: neutral in ``+``."""
        return cls(**{name: np.zeros(shape, dtype=np.int64) for name, shape in _SHAPES.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """The inverse of ``to_arrays``, for arrays that another party sent.

        Raises:
            DataError: an array is missing, unknown, or of wrong type or shape, or the arrays contradict each other.
        """
        if set(arrays) != set(_SHAPES):
            difference = ", ".join(sorted(map(str, set(arrays) ^ set(_SHAPES))))
            raise DataError(f"score histogram: missing or unknown arrays: {difference}; use the same melfed version")
        return cls(**{name: arrays[name] for name in _SHAPES})  # type: ignore[arg-type]  # checked on construction

    def to_arrays(self) -> dict[str, IntArray]:
        """The arrays by name, as they travel: int64, shapes as in the attributes."""
        return {name: getattr(self, name) for name in _SHAPES}

    def to_lists(self) -> dict[str, list[int]]:
        """The same as lists, for JSON."""
        return {name: array.tolist() for name, array in self.to_arrays().items()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Sequence[int]]) -> Self:
        """Histogram from the lists of ``to_lists``. Raises DataError as ``from_arrays``."""
        return cls.from_arrays({name: np.array(values, dtype=np.int64) for name, values in lists.items()})

    def __add__(self, other: "ScoreHistogram") -> "ScoreHistogram":
        """Histogram of both sets together; no group may be in both."""
        mine, theirs = self.to_arrays(), other.to_arrays()
        return ScoreHistogram(**{name: mine[name] + theirs[name] for name in _SHAPES})

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.calibration_counts.sum())

    @property
    def effective_sizes(self) -> tuple[float, float]:
        """Kish's effective numbers of negatives and positives (see ``kish_size``)."""
        totals = (float(self.negatives.sum()), float(self.positives.sum()))
        return kish_size(totals[0], float(self.group_squares[0])), kish_size(totals[1], float(self.group_squares[1]))


_SHAPES: dict[str, tuple[int, ...]] = {
    "positives": (BINS,),
    "negatives": (BINS,),
    "calibration_counts": (CALIBRATION_BINS,),
    "calibration_positives": (CALIBRATION_BINS,),
    "calibration_sums": (CALIBRATION_BINS,),
    "squared_error": (1,),
    "groups": (1,),
    "group_squares": (2,),
}
# Largest believable entries. They also keep every sum formed below far from the end of int64.
_SUMS_LIMIT = int(MAX_IMAGES / UNIT)
_LIMITS = {"calibration_sums": _SUMS_LIMIT, "squared_error": _SUMS_LIMIT, "group_squares": MAX_IMAGES**2}


def _refuse(reason: str) -> DataError:
    return DataError(f"score histogram: {reason}; it is damaged or was altered, ask its sender to evaluate again")


def _check_array(name: str, array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.shape != _SHAPES[name]:
        raise _refuse(f"{name} is not an int64 array of shape {_SHAPES[name]}")
    if (array < 0).any():
        raise _refuse(f"{name} has a negative entry")
    if (array > _LIMITS.get(name, MAX_IMAGES)).any():
        raise _refuse(f"{name} has an entry beyond what {MAX_IMAGES} images can give")


def _check_totals(h: ScoreHistogram) -> None:
    """Totals of classes, tables and groups agree."""
    positives, negatives, images, groups = (
        int(array.sum()) for array in (h.positives, h.negatives, h.calibration_counts, h.groups)
    )
    if images > MAX_IMAGES:
        raise _refuse(f"{images} images are more than {MAX_IMAGES}")
    if positives + negatives != images or int(h.calibration_positives.sum()) != positives:
        raise _refuse("score bins and calibration table count different images")
    if (h.calibration_positives > h.calibration_counts).any():
        raise _refuse("a calibration bin has more melanomas than images")
    if not min(images, 1) <= groups <= images:
        raise _refuse(f"{groups} groups cannot hold {images} images")
    for name, total, squares in zip(("negatives", "positives"), (negatives, positives), h.group_squares, strict=True):
        # m_i >= 1 in at most `groups` groups: Σm <= Σm² <= (Σm)², and (Σm)² <= groups Σm² by Cauchy and Schwarz.
        if not total <= squares <= total**2 or total**2 > groups * int(squares):
            raise _refuse(f"{total} {name} in {groups} groups cannot have a sum of squares of {squares}")


def _check_scores_agree(h: ScoreHistogram) -> None:
    """Both tables and the sums describe scores that could be the same ones."""
    at = np.searchsorted(EDGES, CALIBRATION_EDGES, side="right")
    for fine, coarse in (
        (h.positives, h.calibration_positives),
        (h.negatives, h.calibration_counts - h.calibration_positives),
    ):
        # Scores below a calibration edge: all of the score bins under it, and some of the one it falls in.
        below, upto = np.cumsum(fine)[at - 1], np.cumsum(coarse)[:-1]
        if (upto < below).any() or (upto > below + fine[at]).any():
            raise _refuse("score bins and calibration table describe different scores")
    # The sums are rounded by half a unit an image at most.
    edges = np.concatenate(([0.0], CALIBRATION_EDGES, [1.0])) / UNIT
    counts = h.calibration_counts
    if (h.calibration_sums < counts * (edges[:-1] - 1)).any() or (h.calibration_sums > counts * (edges[1:] + 1)).any():
        raise _refuse("a sum of probabilities does not fit its calibration bin")
    low, high = np.concatenate(([0.0], EDGES)), np.concatenate((EDGES, [1.0]))
    least = h.positives @ (1 - high) ** 2 + h.negatives @ low**2
    most = h.positives @ (1 - low) ** 2 + h.negatives @ high**2
    slack = (h.images + 1) * UNIT
    if not least - slack <= h.squared_error[0] * UNIT <= most + slack:
        raise _refuse("the sum of squared errors does not fit the score bins")
