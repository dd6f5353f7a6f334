"""Mergeable sufficient statistics of an evaluation set: what a clinic reports instead of the scores of its patients."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from melfed.common.errors import DataError
from melfed.common.metrics.intervals import FloatArray, kish_size
from melfed.common.metrics.score_bins import LARGEST, MOST_BINS, Bins, IntArray, bins_of, condensed, known, merged

Counted = npt.NDArray[Any]

CALIBRATION_BINS = 15
MAX_IMAGES = 10_000_000
UNIT = 2.0**-36  # of the sums below
CALIBRATION_EDGES: FloatArray = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
CALIBRATION_EDGES.flags.writeable = False
CALIBRATION_LOGITS: FloatArray = np.log(CALIBRATION_EDGES / (1 - CALIBRATION_EDGES))
CALIBRATION_LOGITS.flags.writeable = False
_OLD_BINS = 1024
"""Of histograms 0.1: 1022 bins of equal width in logit over [-12, 12], and one beyond each end."""


def sigmoid(logits: npt.ArrayLike) -> FloatArray:
    """Probabilities of logits, in double precision; never an overflow."""
    x = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(x))
    probabilities: FloatArray = np.where(x >= 0, 1.0, small) / (1 + small)
    return probabilities


def check_scores(
    logits: npt.ArrayLike, targets: npt.ArrayLike, groups: Sequence[Hashable]
) -> tuple[FloatArray, npt.NDArray[np.bool_], IntArray]:
    """Scores of an evaluation set as arrays of one length (images,): logits, targets, group numbers from 0.

    Logits may be infinite: `melfed.common.metrics.score_bins.LARGEST` is what they are taken for.

    Raises:
        DataError: lengths differ, a logit is not a number, or a target is not 0 or 1.
    """
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if x.ndim != 1 or y.shape != x.shape or len(groups) != len(x):
        raise DataError(
            f"scores: {x.shape} logits, {y.shape} targets and {len(groups)} groups; give one of each an image"
        )
    wrong = np.flatnonzero(np.isnan(x))
    if wrong.size:
        raise DataError(f"scores: the logit at position {wrong[0]} is not a number; check the model")
    if not np.isin(y, (0, 1)).all():
        raise DataError("scores: a target is neither 0 nor 1; check the table's targets")
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    group = np.array([number[one] for one in groups], dtype=np.int64)
    return np.clip(x, -LARGEST, LARGEST), y.astype(np.bool_), group


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """Counts and sums from which every metric of an evaluation set follows; ``a + b`` merges two sets.

    Every count is an integer (sums of probabilities and squared errors are in units of 2^-36, so that a mean is off by
    less than 1e-11), hence merging is exact, associative and commutative: the pooled metrics do not depend on the
    order in which clinics answer. Merged histograms must not share a group.

    Attributes:
        low: least logit of each score bin, shape (bins,); in the order of (low, high), each pair once.
        high: largest logit of it, at least `low` and on the same side of 0: below 0, or not. Bins may overlap.
        positives: melanomas by score bin, shape (bins,).
        negatives: other images by score bin, shape (bins,).
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

    low: FloatArray
    high: FloatArray
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
            frozen = array.copy()  # the caller's array stays the caller's
            frozen.flags.writeable = False
            object.__setattr__(self, field.name, frozen)
        _check_bins(self)
        _check_totals(self)
        _check_scores_agree(self)

    @classmethod
    def from_scores(
        cls, logits: npt.ArrayLike, targets: npt.ArrayLike, groups: Sequence[Hashable], most: int = MOST_BINS
    ) -> "ScoreHistogram":
        """Histogram of scored images.

        Args:
            logits: shape (images,).
            targets: shape (images,), 0 or 1.
            groups: one hashable id an image.
            most: how many score bins there may be, at least 2.

        Raises:
            DataError: lengths differ, a logit is not a number, or a target is not 0 or 1.

        >>> h = ScoreHistogram.from_scores([0.5, 1.5, -2.0, 0.5], [0, 1, 0, 1], ["a", "a", "b", "c"])
        >>> h.middle.tolist(), h.positives.tolist(), h.negatives.tolist()
        ([-2.0, 0.5, 1.5], [0, 1, 1], [1, 1, 0])
        >>> (h + h.empty()).to_lists() == h.to_lists()
        True
        """
        x, y, group = check_scores(logits, targets, groups)
        bins, p = bins_of(x, y, most), sigmoid(x)
        table_bin = np.searchsorted(CALIBRATION_LOGITS, known(x), side="right")
        units = np.rint(p / UNIT).astype(np.int64)
        sums = np.zeros(CALIBRATION_BINS, dtype=np.int64)
        np.add.at(sums, table_bin, units)
        return cls(
            **_arrays_of(bins),
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
        return cls(**{name: np.zeros(_SHAPES.get(name, 0), dtype) for name, dtype in _TYPES.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """The inverse of ``to_arrays``, for arrays that another party sent.

        Raises:
            DataError: an array is missing, unknown, or of wrong type or shape, or the arrays contradict each other.
        """
        if set(arrays) != set(_TYPES):
            difference = ", ".join(sorted(map(str, set(arrays) ^ set(_TYPES))))
            raise DataError(f"score histogram: missing or unknown arrays: {difference}; use the same melfed version")
        return cls(**{name: arrays[name] for name in _TYPES})  # type: ignore[arg-type]  # checked on construction

    def to_arrays(self) -> dict[str, Counted]:
        """The arrays by name, as they travel: int64 but for the bins' float64 ends, shapes as in the attributes."""
        return {name: getattr(self, name) for name in _TYPES}

    def to_lists(self) -> dict[str, list[float]]:
        """The same as lists, for JSON."""
        return {name: array.tolist() for name, array in self.to_arrays().items()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Sequence[float]]) -> Self:
        """Histogram from the lists of ``to_lists``, or from those of 0.1. Raises DataError as ``from_arrays``."""
        try:
            arrays = {name: np.array(values, dtype=_TYPES.get(name, np.int64)) for name, values in lists.items()}
        except (ValueError, TypeError, OverflowError):
            raise _refuse("a list holds what is no number") from None
        return cls.from_arrays(_of_old(arrays) if "low" not in arrays else arrays)

    def __add__(self, other: "ScoreHistogram") -> "ScoreHistogram":
        """Histogram of both sets together; no group may be in both."""
        return total([self, other])

    def condensed(self, most: int = MOST_BINS) -> "ScoreHistogram":
        """The same images in at most so many score bins (at least 2), the rest as it is."""
        bins = condensed(Bins(self.low, self.high, self.positives, self.negatives), most)
        return dataclasses.replace(self, **_arrays_of(bins))

    @property
    def middle(self) -> FloatArray:
        """Middle of each score bin, a logit: where its images are taken to be; shape (bins,)."""
        return self.low / 2 + self.high / 2

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.calibration_counts.sum())

    @property
    def effective_sizes(self) -> tuple[float, float]:
        """Kish's effective numbers of negatives and positives (see ``kish_size``)."""
        totals = (float(self.negatives.sum()), float(self.positives.sum()))
        return kish_size(totals[0], float(self.group_squares[0])), kish_size(totals[1], float(self.group_squares[1]))


_TYPES: dict[str, type[np.generic]] = {
    "low": np.float64,
    "high": np.float64,
    "positives": np.int64,
    "negatives": np.int64,
    "calibration_counts": np.int64,
    "calibration_positives": np.int64,
    "calibration_sums": np.int64,
    "squared_error": np.int64,
    "groups": np.int64,
    "group_squares": np.int64,
}
_SHAPES: dict[str, tuple[int, ...]] = {
    "calibration_counts": (CALIBRATION_BINS,),
    "calibration_positives": (CALIBRATION_BINS,),
    "calibration_sums": (CALIBRATION_BINS,),
    "squared_error": (1,),
    "groups": (1,),
    "group_squares": (2,),
}
"""Of all but the score bins."""
# Largest believable entries. They also keep every sum formed below far from the end of int64.
_SUMS_LIMIT = int(MAX_IMAGES / UNIT)
_LIMITS = {"calibration_sums": _SUMS_LIMIT, "squared_error": _SUMS_LIMIT, "group_squares": MAX_IMAGES**2}
_LARGEST_SUM = 2.0**62


def total(histograms: Sequence[ScoreHistogram]) -> ScoreHistogram:
    """Histogram of several sets together; no group may be in two. Raises DataError where that is beyond belief."""
    if not histograms:
        return ScoreHistogram.empty()
    every = [h.to_arrays() for h in histograms]
    stacks = {name: np.stack([one[name] for one in every]) for name in _SHAPES}
    # Integers would overflow silently; floats do not.
    if any((stack.sum(axis=0, dtype=np.float64) > _LARGEST_SUM).any() for stack in stacks.values()):
        raise DataError(f"the sum of {len(every)} score histograms is beyond what data can give")
    bins = merged(*(np.concatenate([one[name] for one in every]) for name in _BINS))
    return ScoreHistogram(**_arrays_of(bins), **{name: stack.sum(axis=0) for name, stack in stacks.items()})


_BINS = ("low", "high", "positives", "negatives")


def _arrays_of(bins: Bins) -> dict[str, Any]:
    return {name: getattr(bins, name) for name in _BINS}


def _of_old(arrays: dict[str, Counted]) -> dict[str, Counted]:
    """Arrays of now from those of a histogram of 0.1, whose bins were the same for all."""
    counts = [arrays.get(name, np.zeros(0)) for name in ("positives", "negatives")]
    if any(one.shape != (_OLD_BINS,) for one in counts):
        raise _refuse("it lacks the ends of its score bins")
    edges = np.linspace(-12.0, 12.0, _OLD_BINS - 1)
    low, high = np.concatenate(([-LARGEST], edges)), np.concatenate((edges, [LARGEST]))
    high = np.where(low < 0, np.minimum(high, np.nextafter(0.0, -1.0)), high)
    filled = (counts[0] != 0) | (counts[1] != 0)
    return (
        arrays
        | {"low": low[filled], "high": high[filled]}
        | {name: one[filled] for name, one in zip(("positives", "negatives"), counts, strict=True)}
    )


def _refuse(reason: str) -> DataError:
    return DataError(f"score histogram: {reason}; it is damaged or was altered, ask its sender to evaluate again")


def _check_array(name: str, array: object) -> None:
    shape, dtype = _SHAPES.get(name), np.dtype(_TYPES[name])
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (shape or array.shape[:1]):
        raise _refuse(f"{name} is not {'an' if dtype == np.int64 else 'a'} {dtype} array of shape {shape or '(bins,)'}")
    if array.ndim != 1:
        raise _refuse(f"{name} is a single number")
    if name in ("low", "high"):
        return
    if (array < 0).any():
        raise _refuse(f"{name} has a negative entry")
    if (array > _LIMITS.get(name, MAX_IMAGES)).any():
        raise _refuse(f"{name} has an entry beyond what {MAX_IMAGES} images can give")


def _check_bins(h: ScoreHistogram) -> None:
    """Score bins are in order, on one side of 0, and none is empty."""
    low, high = h.low, h.high
    if not len(low) == len(high) == len(h.positives) == len(h.negatives):
        raise _refuse("its score bins have ends and counts of different numbers")
    # Each comparison is written so that what is no number fails it.
    if not ((low >= -LARGEST) & (low <= high) & (high <= LARGEST)).all():
        raise _refuse("a score bin ends before it begins, or nowhere")
    if ((low < 0) & (high >= 0)).any():
        raise _refuse("a score bin lies on both sides of 0")
    if not ((np.diff(low) > 0) | ((np.diff(low) == 0) & (np.diff(high) > 0))).all():
        raise _refuse("its score bins are not in order")
    if not (h.positives + h.negatives > 0).all():
        raise _refuse("a score bin is empty")


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
    for fine, coarse in (
        (h.positives, h.calibration_positives),
        (h.negatives, h.calibration_counts - h.calibration_positives),
    ):
        # Scores below a calibration edge: those of all score bins that end under it, and some of those that it is in.
        surely, perhaps = (_below(ends, fine) for ends in (h.high, h.low))
        upto = np.cumsum(coarse)[:-1]
        if (upto < surely).any() or (upto > perhaps).any():
            raise _refuse("score bins and calibration table describe different scores")
    # The sums are rounded by half a unit an image at most.
    edges = np.concatenate(([0.0], CALIBRATION_EDGES, [1.0])) / UNIT
    counts = h.calibration_counts
    if (h.calibration_sums < counts * (edges[:-1] - 1)).any() or (h.calibration_sums > counts * (edges[1:] + 1)).any():
        raise _refuse("a sum of probabilities does not fit its calibration bin")
    low, high = sigmoid(h.low), sigmoid(h.high)
    least = h.positives @ (1 - high) ** 2 + h.negatives @ low**2
    most = h.positives @ (1 - low) ** 2 + h.negatives @ high**2
    slack = (h.images + 1) * UNIT
    if not least - slack <= h.squared_error[0] * UNIT <= most + slack:
        raise _refuse("the sum of squared errors does not fit the score bins")


def _below(ends: FloatArray, counts: IntArray) -> IntArray:
    """Count images in bins whose ends are below each calibration edge, shape (14,)."""
    order = np.argsort(ends, kind="stable")
    sums = np.concatenate(([0], np.cumsum(counts[order])))
    return sums[np.searchsorted(ends[order], CALIBRATION_LOGITS, side="left")]
