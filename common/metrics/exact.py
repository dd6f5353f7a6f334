"""How good a classifier is, with 95 % intervals: from merged histograms, or from scores where they are at hand.

Definitions: AUROC counts a tie between a melanoma and another image as 1/2. AUPRC is the average precision (no
interpolation). Balanced accuracy calls p >= 0.5, a logit of 0 or more, a melanoma. Sensitivity at 90 % specificity is
the largest sensitivity of any threshold whose observed specificity is at least 90 %. A metric that needs both classes
is undefined (None) where one is absent.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from melfed.common.metrics.curves import (
    CalibrationCurve,
    PrecisionRecallCurve,
    RocCurve,
    calibration_curve,
    pr_curve,
    roc_curve,
)
from melfed.common.metrics.histogram import UNIT, ScoreHistogram, check_scores, sigmoid
from melfed.common.metrics.intervals import (
    UNDEFINED,
    Z95,
    FloatArray,
    Interval,
    boyd_auprc,
    hanley_mcneil,
    newcombe_auroc,
    proportion_interval,
    square_and_add,
    wilson,
)
from melfed.common.metrics.score_bins import IntArray

__all__ = [
    "CalibrationCurve",
    "EvaluationMetrics",
    "Interval",
    "PrecisionRecallCurve",
    "RocCurve",
    "ScoreHistogram",
    "calibration_curve",
    "histogram_metrics",
    "pr_curve",
    "roc_curve",
    "scored_metrics",
]

BOOTSTRAP_SUCCESSES = 10
SPECIFICITIES = (0.90, 0.95)
CHUNK_ENTRIES = 500_000  # of replicates x images at a time: 4 MB an array, which stays in cache


class EvaluationMetrics(BaseModel):
    """Metrics of one evaluation set, as they stand in a run's summary."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int
    melanomas: int
    patients: int
    """Groups of images that are not independent: patients, or lesions where no patient is published."""
    auroc: Interval
    auprc: Interval
    balanced_accuracy: Interval
    sensitivity_at_90_specificity: Interval
    sensitivity_at_95_specificity: Interval
    threshold_at_90_specificity: float | None
    """Call p >= threshold a melanoma; None where undefined or where no threshold in [0, 1] is that specific."""
    threshold_at_95_specificity: float | None
    brier: float | None
    """Mean of (p - target)²; None for no image."""
    ece: float | None
    """Expected calibration error over 15 bins of equal width; None for no image."""


@dataclass(frozen=True)
class _Ends:
    """Melanomas and others of a histogram, each class taken to lie at one place of its bins.

    Attributes:
        at: the places in use, logits from the highest down, shape (k,).
        p: melanomas at each, shape (k,).
        n: others at each, shape (k,).
        tp: melanomas there or above, shape (k,).
        fp: others there or above, shape (k,).
    """

    at: FloatArray
    p: FloatArray
    n: FloatArray
    tp: FloatArray
    fp: FloatArray

    @classmethod
    def of(cls, h: ScoreHistogram, positives: FloatArray, negatives: FloatArray) -> "_Ends":
        """Take the logits, shape (bins,), that the bins' melanomas and others are to have."""
        at, place = np.unique(-np.concatenate((positives, negatives)), return_inverse=True)
        p, n = (
            np.bincount(part, weights=counts.astype(np.float64), minlength=len(at)).astype(np.float64)
            for part, counts in zip(np.split(place, 2), (h.positives, h.negatives), strict=True)
        )
        return cls(-at, p, n, np.cumsum(p), np.cumsum(n))

    def sensitivity(self, rate: float) -> float:
        """Largest sensitivity of a threshold whose rate of false alarms is at most `rate`."""
        within = int((self.fp <= (rate + 1e-12) * self.fp[-1]).sum())  # places, from the highest down
        return float(self.tp[within - 1] / self.tp[-1]) if within else 0.0


@dataclass(frozen=True)
class _Sides:
    """One histogram of both classes, and effective sample sizes.

    `middle` takes scores to lie in the middle of their bins, `worst` melanomas at the low and others at the high end,
    and `best` the reverse: no order of the scores within their bins is worse, or better.
    """

    middle: _Ends
    worst: _Ends
    best: _Ends
    positives: float
    negatives: float
    effective_positives: float
    effective_negatives: float

    @classmethod
    def of(cls, h: ScoreHistogram) -> "_Sides":
        middle, worst, best = (_Ends.of(h, *at) for at in ((h.middle, h.middle), (h.low, h.high), (h.high, h.low)))
        effective_negatives, effective_positives = h.effective_sizes
        totals = float(h.positives.sum()), float(h.negatives.sum())
        return cls(middle, worst, best, *totals, effective_positives, effective_negatives)


def histogram_metrics(h: ScoreHistogram) -> EvaluationMetrics:
    """Metrics of a (merged) histogram, with closed-form intervals.

    The limits hold for whatever the scores within each bin are: the lower limit belongs to the least favourable order
    of them, the upper limit to the most favourable one. Clustering is covered by Kish's effective sample sizes, class
    by class, as if all images of one class in one group were copies; the positive correlation between the classes
    within a patient, which would narrow the intervals, is left out.

    >>> north = ScoreHistogram.from_scores([2.0, -1.0, -2.0], [1, 0, 0], ["Ann", "Ben", "Ben"])
    >>> south = ScoreHistogram.from_scores([0.5, 1.0, -3.0], [1, 0, 0], ["Cem", "Dan", "Eva"])
    >>> pooled = histogram_metrics(north + south)
    >>> pooled.images, pooled.patients, pooled.auroc.value
    (6, 5, 0.875)
    >>> round(pooled.auroc.low, 2), round(pooled.auroc.high, 2)
    (0.3, 0.99)
    >>> histogram_metrics(ScoreHistogram.from_scores([0.5], [1], ["Cem"])).auroc.value is None
    True
    """
    fields: dict[str, object] = dict.fromkeys(_INTERVALS, UNDEFINED)
    fields |= {"threshold_at_90_specificity": None, "threshold_at_95_specificity": None}
    if h.positives.any() and h.negatives.any():
        s = _Sides.of(h)
        fields["auroc"] = _auroc(s)
        fields["auprc"] = _auprc(h, s)
        fields["balanced_accuracy"] = _balanced_accuracy(h, s)
        for specificity in SPECIFICITIES:
            name = f"at_{round(100 * specificity)}_specificity"
            fields[f"sensitivity_{name}"], fields[f"threshold_{name}"] = _sensitivity_at(s, specificity)
    images = h.images
    gaps = np.abs(h.calibration_sums * UNIT - h.calibration_positives)
    return EvaluationMetrics.model_validate(
        fields
        | {
            "images": images,
            "melanomas": int(h.positives.sum()),
            "patients": int(h.groups[0]),
            "brier": float(h.squared_error[0]) * UNIT / images if images else None,
            "ece": float(gaps.sum()) / images if images else None,
        }
    )


def _auroc(s: _Sides) -> Interval:
    worst, value, best = (_area(ends) for ends in (s.worst, s.middle, s.best))
    sizes = (s.effective_positives, s.effective_negatives)
    # Melanomas often score over a wider range than others, which Hanley and McNeil's variance underrates. DeLong's,
    # which supposes nothing but fails at 0 and 1, corrects it upwards where it is larger.
    supposed = hanley_mcneil(value, *sizes)
    inflation = max(1.0, _delong_variance(s) / supposed) if supposed else 1.0
    low, _ = newcombe_auroc(worst, *sizes, inflation)
    _, high = newcombe_auroc(best, *sizes, inflation)
    return proportion_interval(value, low, high)


def _area(ends: _Ends) -> float:
    """AUROC: the share of pairs in the right order, a tie as one half."""
    below = ends.fp[-1] - ends.fp + ends.n / 2
    return float(ends.p @ below / (ends.tp[-1] * ends.fp[-1]))


def _delong_variance(s: _Sides) -> float:
    """DeLong's variance of the AUROC (Biometrics 1988; 44:837-845) from bins, at the effective sample sizes."""
    ends = s.middle
    beaten = (s.negatives - ends.fp + ends.n / 2) / s.negatives  # share of the others that a melanoma there outscores
    beating = (ends.tp - ends.p / 2) / s.positives
    variance = 0.0
    for counts, share, size in ((ends.p, beaten, s.effective_positives), (ends.n, beating, s.effective_negatives)):
        mean = counts @ share / counts.sum()
        variance += float(counts @ (share - mean) ** 2 / counts.sum() / max(size - 1, 1))
    return variance


def auprc_bounds(h: ScoreHistogram) -> tuple[float, float, float]:
    """Lowest, binned, and highest average precision that scores with this histogram can have (both classes present).

    Order the P melanomas by their scores, from the highest down, and let the r-th have score s_r. Then average
    precision is the mean over r of T_r / (T_r + F_r), with T_r melanomas and F_r others scoring s_r or more. Let l_r be
    the r-th largest of the low ends of the melanomas' bins, and h_r of the high ends: l_r <= s_r <= h_r. So

        r <= T_r,   [melanomas with a low end >= h_r]  <=  T_r  <=  [melanomas with a high end >= l_r],
                    [others with a low end >= h_r]     <=  F_r  <=  [others with a high end >= l_r],

    and x / (x + G) grows with x and falls with G >= 0. Where all bins are of one logit, both bounds are the value.
    """
    s = _Sides.of(h)
    low, high = (ends.at.repeat(ends.p.astype(np.int64)) for ends in (s.worst, s.best))  # l_r and h_r
    rank = np.arange(1, len(low) + 1)
    hits = np.maximum(rank, _at_least(s.worst.at, s.worst.tp, high)), _at_least(s.best.at, s.best.tp, low)
    alarms = _at_least(s.worst.at, s.worst.fp, low), _at_least(s.best.at, s.best.fp, high)
    worst, best = (float(np.mean(hit / (hit + alarm))) for hit, alarm in zip(hits, alarms, strict=True))
    found = s.middle.p > 0
    precision = s.middle.tp[found] / (s.middle.tp[found] + s.middle.fp[found])
    value = float(s.middle.p[found] @ precision / s.positives)
    return min(worst, value), value, max(best, value)


def _at_least(at: FloatArray, cumulative: FloatArray, scores: FloatArray) -> FloatArray:
    """Images at places (from the highest down) that are at least each score."""
    counts = np.concatenate(([0.0], cumulative))
    found: FloatArray = counts[np.searchsorted(-at, -scores, side="right")]
    return found


def _auprc(h: ScoreHistogram, s: _Sides) -> Interval:
    worst, value, best = auprc_bounds(h)
    size = s.effective_positives
    return proportion_interval(value, boyd_auprc(worst, size)[0], boyd_auprc(best, size)[1])


def _balanced_accuracy(h: ScoreHistogram, s: _Sides) -> Interval:
    called = h.low >= 0  # no bin lies on both sides, so binning costs nothing here
    sensitivity = float(h.positives[called].sum() / s.positives)
    specificity = float(h.negatives[~called].sum() / s.negatives)
    parts = (_reach(sensitivity, s.effective_positives), _reach(specificity, s.effective_negatives))
    value = (sensitivity + specificity) / 2
    low, high = square_and_add(value, *[(below / 2, above / 2) for below, above in parts])
    return proportion_interval(value, low, high)


def _reach(proportion: float, size: float) -> tuple[float, float]:
    """How far Wilson's limits lie below and above a proportion."""
    low, high = wilson(proportion, size)
    return float(proportion - low), float(high - proportion)


def _sensitivity_at(s: _Sides, specificity: float) -> tuple[Interval, float | None]:
    """Interval, and the threshold of its value: the lowest place of a melanoma that is called."""
    rate = 1 - specificity
    value, least, most = (ends.sensitivity(rate) for ends in (s.middle, s.worst, s.best))
    # The threshold is estimated as well: true and observed rate of false alarms differ by up to `error`. What the
    # ROC curve does over that distance joins the sampling error of the sensitivity itself.
    error = Z95 * np.sqrt(rate * specificity / s.effective_negatives)
    worst = s.worst.sensitivity(rate - error) if error <= rate else 0.0
    best = s.best.sensitivity(rate + error)
    low, _ = square_and_add(least, (_reach(least, s.effective_positives)[0], 0.0), (least - worst, 0.0))
    _, high = square_and_add(most, (0.0, _reach(most, s.effective_positives)[1]), (0.0, best - most))
    if not value:
        return proportion_interval(value, low, high), None
    # Of all that call the same melanomas, the most specific one.
    lowest = int(np.searchsorted(s.middle.tp, value * s.positives - 0.5))
    return proportion_interval(value, low, high), float(sigmoid(s.middle.at[lowest]))


def scored_metrics(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> EvaluationMetrics:
    """Exact metrics of scored images, with percentile intervals from a bootstrap over groups.

    A replicate draws as many groups as there are, with replacement, and all images of each; one that has lost a class
    is dropped. The percentile bootstrap covers too little where few groups carry a class or the value is near 0 or 1
    (in simulation 0.77 instead of 0.95 for 20 melanomas at an AUROC of 0.98, and no width at all at 1). So a metric
    of value v keeps the closed-form limits of ``histogram_metrics`` unless g v >= 10 and g (1 - v) >= 10, where g is
    the number of groups that hold a melanoma or the number that hold another image, whichever is smaller.

    Args:
        logits: shape (images,).
        targets: shape (images,), 0 or 1.
        groups: one id an image; images of one group are resampled together.
        replicates: number of bootstrap samples, >= 1.
        seed: of the resampling; the same seed gives the same limits.

    Raises:
        DataError: lengths differ, a logit is not a number, or a target is not 0 or 1.

    >>> metrics = scored_metrics([2.0, 1.0, -1.0, 0.5, -2.0, -3.0], [1, 1, 1, 0, 0, 0], ["a", "b", "c", "d", "e", "f"])
    >>> round(metrics.auroc.value, 3), round(metrics.auprc.value, 3), metrics.melanomas
    (0.889, 0.917, 3)
    """
    x, y, group = check_scores(logits, targets, groups)
    closed = histogram_metrics(ScoreHistogram.from_scores(x, y, groups, most=max(2, len(x))))
    if closed.auroc.value is None:
        return closed
    ranked = RankedScores.of(x, y, group)
    values = ranked.metrics(np.ones((1, closed.patients)))[0]
    carriers = min(len(np.unique(group[y])), len(np.unique(group[~y])))
    trusted = carriers * np.minimum(values, 1 - values) >= BOOTSTRAP_SUCCESSES
    fields: dict[str, object] = {"brier": float(np.mean((sigmoid(x) - y) ** 2))}
    limits = _bootstrap(ranked, closed.patients, replicates, seed) if trusted.any() else np.zeros((2, len(values)))
    for name, value, low, high, use in zip(_INTERVALS, values, *limits, trusted, strict=True):
        formula: Interval = getattr(closed, name)
        percentile = proportion_interval(float(value), float(low), float(high))
        fields[name] = percentile if use and low < high else formula.around(float(value))
    for specificity in SPECIFICITIES:
        name = f"threshold_at_{round(100 * specificity)}_specificity"
        fields[name] = ranked.threshold(specificity)
    return closed.model_copy(update=fields)


_INTERVALS = (
    "auroc",
    "auprc",
    "balanced_accuracy",
    "sensitivity_at_90_specificity",
    "sensitivity_at_95_specificity",
)


@dataclass(frozen=True)
class RankedScores:
    """Logits sorted once, highest first, so that every replicate is weighted cumulative sums.

    With M melanomas and N others: ``tie_end[i]`` is the last melanoma tied with melanoma i; ``above[i]`` and
    ``not_below[i]`` count the others with a score above, and not below, that of melanoma i.
    """

    scores: FloatArray
    positive_group: IntArray
    negative_group: IntArray
    tie_end: IntArray
    above: IntArray
    not_below: IntArray
    positives_called: int
    negatives_called: int

    @classmethod
    def of(cls, x: FloatArray, y: npt.NDArray[np.bool_], group: IntArray) -> "RankedScores":
        order = np.argsort(-x, kind="stable")
        x, y, group = x[order], y[order], group[order]
        scores, others = x[y], x[~y]
        return cls(
            scores=scores,
            positive_group=group[y],
            negative_group=group[~y],
            tie_end=np.searchsorted(-scores, -scores, side="right") - 1,
            above=np.searchsorted(-others, -scores, side="left"),
            not_below=np.searchsorted(-others, -scores, side="right"),
            positives_called=int((scores >= 0).sum()),
            negatives_called=int((others >= 0).sum()),
        )

    def metrics(self, weights: FloatArray) -> FloatArray:
        """Metrics in the order of ``_INTERVALS``, shape (replicates, 5), for group weights (replicates, groups).

        NaN where a replicate has lost a class.
        """
        w = weights[:, self.positive_group]
        fp = np.zeros((len(weights), len(self.negative_group) + 1))
        np.cumsum(weights[:, self.negative_group], axis=1, out=fp[:, 1:])
        positives, negatives = w.sum(axis=1), fp[:, -1]
        positives[(positives == 0) | (negatives == 0)] = np.nan
        tp_here, fp_here = np.cumsum(w, axis=1)[:, self.tie_end], fp[:, self.not_below]
        beaten = negatives[:, None] - (fp_here + fp[:, self.above]) / 2
        auroc = np.einsum("ij,ij->i", w, beaten) / np.where(negatives == 0, np.nan, negatives)
        precision = tp_here / np.maximum(tp_here + fp_here, 1)  # 0/0 only where the melanoma's own weight is 0
        columns = [auroc, np.einsum("ij,ij->i", w, precision)]
        specificity = 1 - fp[:, self.negatives_called] / np.maximum(negatives, 1)
        columns.append((w[:, : self.positives_called].sum(axis=1) + specificity * positives) / 2)
        for wanted in SPECIFICITIES:
            allowed = (1 - wanted + 1e-12) * negatives
            columns.append(np.einsum("ij,ij->i", w, fp_here <= allowed[:, None]))
        result: FloatArray = np.stack(columns, axis=1) / positives[:, None]
        return result

    def threshold(self, specificity: float) -> float | None:
        """Smallest melanoma score, as a probability, that as a threshold is specific enough."""
        enough = self.scores[self.not_below <= (1 - specificity + 1e-12) * len(self.negative_group)]
        return float(sigmoid(enough[-1])) if enough.size else None


def _bootstrap(ranked: RankedScores, groups: int, replicates: int, seed: int) -> FloatArray:
    """2.5 % and 97.5 % quantiles, shape (2, 5)."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ENTRIES // (len(ranked.positive_group) + len(ranked.negative_group)))
    rows = []
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        drawn = rng.integers(0, groups, size=(size, groups)) + groups * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups)
        rows.append(ranked.metrics(weights.astype(np.float64)))
    limits: FloatArray = np.nanquantile(np.concatenate(rows), [0.025, 0.975], axis=0)
    return limits
