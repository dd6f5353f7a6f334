"""How good a classifier is, with 95 % intervals: from merged histograms, or from scores where they are at hand.

Definitions: AUROC counts a tie between a melanoma and another image as 1/2. AUPRC is the average precision (no
interpolation). Balanced accuracy calls p >= 0.5 a melanoma. Sensitivity at 90 % specificity is the largest sensitivity
of any threshold whose observed specificity is at least 90 %. A metric that needs both classes is undefined (None)
where one is absent.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from common.curves import (
    CalibrationCurve,
    PrecisionRecallCurve,
    RocCurve,
    calibration_curve,
    pr_curve,
    roc_curve,
)
from common.histogram import BINS, EDGES, UNIT, IntArray, ScoreHistogram, check_scores
from common.intervals import (
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

__all__ = [
    "BINS",
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
class _Sides:
    """Counts of one histogram from the highest score bin down, shape (BINS,), and effective sample sizes."""

    p: FloatArray
    n: FloatArray
    tp: FloatArray
    fp: FloatArray
    positives: float
    negatives: float
    effective_positives: float
    effective_negatives: float

    @classmethod
    def of(cls, h: ScoreHistogram) -> "_Sides":
        p, n = h.positives[::-1].astype(np.float64), h.negatives[::-1].astype(np.float64)
        tp, fp = np.cumsum(p), np.cumsum(n)
        effective_negatives, effective_positives = h.effective_sizes
        return cls(p, n, tp, fp, float(tp[-1]), float(fp[-1]), effective_positives, effective_negatives)


def histogram_metrics(h: ScoreHistogram) -> EvaluationMetrics:
    """Metrics of a (merged) histogram, with closed-form intervals.

    The limits hold for whatever the scores within each bin are: the lower limit belongs to the least favourable order
    of them, the upper limit to the most favourable one. Clustering is covered by Kish's effective sample sizes, class
    by class, as if all images of one class in one group were copies; the positive correlation between the classes
    within a patient, which would narrow the intervals, is left out.
    """
    fields: dict[str, object] = dict.fromkeys(_INTERVALS, UNDEFINED)
    fields |= {"threshold_at_90_specificity": None, "threshold_at_95_specificity": None}
    s = _Sides.of(h)
    if s.positives and s.negatives:
        fields["auroc"] = _auroc(s)
        fields["auprc"] = _auprc(h, s)
        fields["balanced_accuracy"] = _balanced_accuracy(s)
        for specificity in SPECIFICITIES:
            name = f"at_{round(100 * specificity)}_specificity"
            fields[f"sensitivity_{name}"], fields[f"threshold_{name}"] = _sensitivity_at(s, specificity)
    images = h.images
    gaps = np.abs(h.calibration_sums * UNIT - h.calibration_positives)
    return EvaluationMetrics.model_validate(
        fields
        | {
            "images": images,
            "melanomas": int(s.positives),
            "patients": int(h.groups[0]),
            "brier": float(h.squared_error[0]) * UNIT / images if images else None,
            "ece": float(gaps.sum()) / images if images else None,
        }
    )


def _auroc(s: _Sides) -> Interval:
    # A pair of a melanoma and another image in one bin is in the wrong order at worst, in the right one at best.
    pairs = s.positives * s.negatives
    within = float(s.p @ s.n)
    ordered = float(s.p @ (s.negatives - s.fp))
    value = (ordered + within / 2) / pairs
    sizes = (s.effective_positives, s.effective_negatives)
    # Melanomas often score over a wider range than others, which Hanley and McNeil's variance underrates. DeLong's,
    # which supposes nothing but fails at 0 and 1, corrects it upwards where it is larger.
    supposed = hanley_mcneil(value, *sizes)
    inflation = max(1.0, _delong_variance(s) / supposed) if supposed else 1.0
    low, _ = newcombe_auroc(ordered / pairs, *sizes, inflation)
    _, high = newcombe_auroc((ordered + within) / pairs, *sizes, inflation)
    return proportion_interval(value, low, high)


def _delong_variance(s: _Sides) -> float:
    """DeLong's variance of the AUROC (Biometrics 1988; 44:837-845) from bins, at the effective sample sizes."""
    beaten = (s.negatives - s.fp + s.n / 2) / s.negatives  # share of the others that a melanoma of the bin outscores
    beating = (s.tp - s.p / 2) / s.positives
    variance = 0.0
    for counts, share, size in ((s.p, beaten, s.effective_positives), (s.n, beating, s.effective_negatives)):
        mean = counts @ share / counts.sum()
        variance += float(counts @ (share - mean) ** 2 / counts.sum() / max(size - 1, 1))
    return variance


def auprc_bounds(h: ScoreHistogram) -> tuple[float, float, float]:
    """Lowest, binned, and highest average precision that scores with this histogram can have (both classes present).

    Let T melanomas and F others lie in the bins above one that has p and n of them. Its scores fall into blocks of
    tied ones; from the highest down, block j has p_j melanomas, and after it a_j = p_1 + ... + p_j of the bin's
    melanomas and c_j <= n of its others are passed. Average precision gets from the bin, up to the factor 1/P,

        sum over j of  p_j (T + a_j) / (T + a_j + F + c_j).

    x / (x + G) grows with x and falls with G >= 0. Hence each of the p_j melanomas numbered i = a_(j-1)+1 ... a_j has

        (T + i) / (T + i + F + n)  <=  (T + a_j) / (T + a_j + F + c_j)  <=  (T + p) / (T + p + F).

    Sum over the melanomas: the left side is reached by all others first and then the melanomas one at a time, the
    right side by all melanomas tied and then the others. Untied melanomas in front would give only the sum of
    (T + i) / (T + i + F), which is less as soon as F > 0: it would be no bound. The binned value, one block, lies
    between.
    """
    s = _Sides.of(h)
    occupied = np.flatnonzero(s.p)
    p, tp, fp, n = s.p[occupied], s.tp[occupied], s.fp[occupied], s.n[occupied]
    rank = np.arange(1, int(s.positives) + 1)
    low = float((rank / (rank + np.repeat(fp, p.astype(np.int64)))).sum())
    value, high = float(p @ (tp / (tp + fp))), float(p @ (tp / (tp + fp - n)))
    return low / s.positives, value / s.positives, high / s.positives


def _auprc(h: ScoreHistogram, s: _Sides) -> Interval:
    worst, value, best = auprc_bounds(h)
    size = s.effective_positives
    return proportion_interval(value, boyd_auprc(worst, size)[0], boyd_auprc(best, size)[1])


def _balanced_accuracy(s: _Sides) -> Interval:
    last = BINS // 2 - 1  # last bin at or above 0.5, counted from the top: an edge, so binning costs nothing here
    sensitivity, specificity = s.tp[last] / s.positives, 1 - s.fp[last] / s.negatives
    parts = (_reach(sensitivity, s.effective_positives), _reach(specificity, s.effective_negatives))
    value = float(sensitivity + specificity) / 2
    low, high = square_and_add(value, *[(below / 2, above / 2) for below, above in parts])
    return proportion_interval(value, low, high)


def _reach(proportion: float, size: float) -> tuple[float, float]:
    """How far Wilson's limits lie below and above a proportion."""
    low, high = wilson(proportion, size)
    return float(proportion - low), float(high - proportion)


def _sensitivity_at(s: _Sides, specificity: float) -> tuple[Interval, float | None]:
    """Interval, and the threshold (a bin edge) of its value."""
    sensitivity = np.concatenate(([0.0], s.tp / s.positives))  # with the highest 0, 1, ... bins called melanoma
    alarms = np.concatenate(([0.0], s.fp / s.negatives))

    def last_within(rate: float) -> int:
        return int(np.searchsorted(alarms, rate + 1e-12, side="right")) - 1

    rate = 1 - specificity
    bins = last_within(rate)
    # The next bin has too many others, but some of its melanomas may score above enough of them: at most all.
    value, best = float(sensitivity[bins]), float(sensitivity[min(bins + 1, BINS)])
    # The threshold is estimated as well: true and observed rate of false alarms differ by up to `error`. What the
    # ROC curve does over that distance joins the sampling error of the sensitivity itself.
    error = Z95 * np.sqrt(rate * specificity / s.effective_negatives)
    worst = float(sensitivity[last_within(rate - error)]) if error <= rate else 0.0
    most = float(sensitivity[min(last_within(rate + error) + 1, BINS)])
    low, _ = square_and_add(value, (_reach(value, s.effective_positives)[0], 0.0), (value - worst, 0.0))
    _, high = square_and_add(best, (0.0, _reach(best, s.effective_positives)[1]), (0.0, max(0.0, most - best)))
    thresholds = np.concatenate(([np.nan], EDGES[::-1], [0.0]))
    highest = int(np.searchsorted(sensitivity, value))  # of all that call the same melanomas, the most specific one
    return proportion_interval(value, low, high), float(thresholds[highest]) if value else None


def scored_metrics(
    probabilities: npt.ArrayLike,
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
        probabilities: shape (images,), in [0, 1].
        targets: shape (images,), 0 or 1.
        groups: one id an image; images of one group are resampled together.
        replicates: number of bootstrap samples, >= 1.
        seed: of the resampling; the same seed gives the same limits.

    Raises:
        DataError: lengths differ, a probability is not a number in [0, 1], or a target is not 0 or 1.
    """
    p, y, group = check_scores(probabilities, targets, groups)
    closed = histogram_metrics(ScoreHistogram.from_scores(p, y, groups))
    if closed.auroc.value is None:
        return closed
    ranked = _Ranked.of(p, y, group)
    values = ranked.metrics(np.ones((1, closed.patients)))[0]
    carriers = min(len(np.unique(group[y])), len(np.unique(group[~y])))
    trusted = carriers * np.minimum(values, 1 - values) >= BOOTSTRAP_SUCCESSES
    fields: dict[str, object] = {"brier": float(np.mean((p - y) ** 2))}
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
class _Ranked:
    """Scores sorted once, highest first, so that every replicate is weighted cumulative sums.

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
    def of(cls, p: FloatArray, y: npt.NDArray[np.bool_], group: IntArray) -> "_Ranked":
        order = np.argsort(-p, kind="stable")
        p, y, group = p[order], y[order], group[order]
        scores, others = p[y], p[~y]
        return cls(
            scores=scores,
            positive_group=group[y],
            negative_group=group[~y],
            tie_end=np.searchsorted(-scores, -scores, side="right") - 1,
            above=np.searchsorted(-others, -scores, side="left"),
            not_below=np.searchsorted(-others, -scores, side="right"),
            positives_called=int((scores >= 0.5).sum()),
            negatives_called=int((others >= 0.5).sum()),
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
        """Smallest melanoma score that as a threshold is specific enough."""
        enough = self.scores[self.not_below <= (1 - specificity + 1e-12) * len(self.negative_group)]
        return float(enough[-1]) if enough.size else None


def _bootstrap(ranked: _Ranked, groups: int, replicates: int, seed: int) -> FloatArray:
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
