"""Differences of AUROC and average precision: DeLong, the bootstrap over patients, Holm's correction.

AUROC and average precision are means over the runs of a configuration (its seeds). What is unsure in them is which
patients there happened to be, and which seeds. Images of one patient are not independent: all that follows resamples,
or sums over, patients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from melfed.common.metrics.exact import EvaluationMetrics, RankedScores, histogram_metrics
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import Z95, FloatArray

IntArray = npt.NDArray[np.int64]

ENOUGH = 30
"""Patients with, and without, a melanoma from which DeLong's normal approximation is taken."""
FEWEST = 5
"""Patients of a class below which nothing is compared."""
REPLICATES = 2000
_EQUAL = 1e-12
"""A difference below it is none: the sums of equal numbers, in another order."""


@dataclass(frozen=True)
class Scores:
    """One run's scores of its test part, in the order of the images' names.

    Attributes:
        images: names, shape (n,).
        patients: the patient (or what stands for one) of each, shape (n,).
        targets: whether it is a melanoma, shape (n,).
        logits: shape (n,).
    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    targets: npt.NDArray[np.bool_]
    logits: FloatArray

    @property
    def auroc(self) -> float:
        """Share of pairs of a melanoma and another image in the right order, a tie as one half."""
        return float(_placements(self)[0].mean())

    def only(self, index: IntArray) -> "Scores":
        """Return the scores of some images, by their places."""
        images, patients = (tuple(names[i] for i in index) for names in (self.images, self.patients))
        return Scores(images, patients, self.targets[index], self.logits[index])


def metrics_of(scores: Scores) -> EvaluationMetrics:
    """Return the metrics of some scores, with closed-form intervals, without any binning."""
    most = max(2, len(scores.images))
    histogram = ScoreHistogram.from_scores(scores.logits, scores.targets, scores.patients, most)
    return histogram_metrics(histogram)


@dataclass(frozen=True)
class Difference:
    """How much one configuration's mean exceeds another's.

    Attributes:
        value: the difference.
        low: lower limit of its 95 % interval.
        high: upper limit.
        p: probability of so large a difference, either way, between equal ones; before any correction.
        method: `DeLong` or `bootstrap`.
    """

    value: float
    low: float
    high: float
    p: float
    method: str


def _placements(scores: Scores) -> tuple[FloatArray, FloatArray]:
    """Return of each melanoma the share of others that it outscores, and of each other the share that outscore it.

    Their means are the AUROC; a tie counts one half. By midranks: Sun & Xu, IEEE Signal Processing Letters 2014.
    """
    positive, negative = scores.logits[scores.targets], scores.logits[~scores.targets]
    together = stats.rankdata(np.concatenate((positive, negative)))
    m, n = len(positive), len(negative)
    beaten = (together[:m] - stats.rankdata(positive)) / n
    beating = 1 - (together[m:] - stats.rankdata(negative)) / m
    return beaten, beating


class Components:
    """What each patient adds to the mean AUROC of some runs: the structural components of DeLong et al. (1988).

    A run's AUROC is the mean of its melanomas' placements, and of the others'. Summed by patient, their deviations from
    it give the variance where a patient has several images (Obuchowski, Biometrics 1997), which is DeLong's where each
    has one; averaged over runs, that of the mean AUROC. The AUROC within sources is the mean of the sources' own,
    weighted by their pairs, and so are its components.
    """

    def __init__(
        self, runs: Sequence[Scores], patients: Sequence[str], sources: Sequence[Sequence[str]] | None = None
    ) -> None:
        """Take some runs of one configuration, and all patients of a comparison in one order.

        Args:
            runs: with both classes.
            patients: of all runs.
            sources: of each run's images, for the AUROC within sources, some of which have both classes; None: pooled.
        """
        place = {patient: number for number, patient in enumerate(patients)}
        self.values = np.zeros(len(runs))
        self.positive = np.zeros((len(runs), len(patients)))
        self.negative = np.zeros((len(runs), len(patients)))
        for number, run in enumerate(runs):
            for part, share in _parts(run, sources[number] if sources else None):
                index = np.array([place[patient] for patient in part.patients])
                beaten, beating = _placements(part)
                value = beaten.mean()
                self.values[number] += share * value
                np.add.at(self.positive[number], index[part.targets], share * (beaten - value) / len(beaten))
                np.add.at(self.negative[number], index[~part.targets], share * (beating - value) / len(beating))


def _parts(run: Scores, sources: Sequence[str] | None) -> list[tuple[Scores, float]]:
    """Return a run's scores of each source that has both classes, with its share of the pairs; or all, in one part."""
    if sources is None:
        return [(run, 1.0)]
    _, number = np.unique(np.array(sources), return_inverse=True)
    parts = [run.only(np.flatnonzero(number == each)) for each in range(number.max() + 1)]
    pairs = [int(part.targets.sum()) * int((~part.targets).sum()) for part in parts]
    return [(part, each / sum(pairs)) for part, each in zip(parts, pairs, strict=True) if each]


def delong(first: Components, second: Components, with_melanoma: int, without: int, patients: int) -> Difference:
    """Return the difference of two mean AUROCs over the same patients; runs are paired in their order.

    The variance is that of the patients, and with several runs that of their differences: which patients were drawn,
    and which seeds. Together they are a little too much, since the noise of each run's patients is in both.

    Args:
        first: of one configuration.
        second: of another.
        with_melanoma: patients with a melanoma.
        without: patients with another image.
        patients: all of them.
    """
    gaps = first.values - second.values
    value = float(gaps.mean())
    a = (first.positive - second.positive).mean(axis=0)
    b = (first.negative - second.negative).mean(axis=0)
    variance = (
        with_melanoma / (with_melanoma - 1) * a @ a
        + without / (without - 1) * b @ b
        + 2 * patients / (patients - 1) * a @ b
    )
    if len(gaps) > 1:
        variance += float(gaps.var(ddof=1)) / len(gaps)
    return normal_difference(value, math.sqrt(max(0.0, float(variance))), "DeLong")


def normal_difference(value: float, error: float, method: str) -> Difference:
    """Return a difference with the interval and p value of a normal distribution; equal ones have p = 1.

    Args:
        value: the difference.
        error: its standard error.
        method: how that was found.
    """
    equal, certain = abs(value) < _EQUAL, error < _EQUAL
    p = float(equal) if equal or certain else math.erfc(abs(value) / error / math.sqrt(2))
    return Difference(value, value - Z95 * error, value + Z95 * error, p, method)


@dataclass(frozen=True)
class Resampling:
    """Draws of patients, the same for all configurations, and of runs.

    Attributes:
        weights: how often each patient is drawn, shape (replicates, patients).
        uniform: what draws a replicate's runs, shape (replicates, most runs), in [0, 1).
    """

    weights: FloatArray
    uniform: FloatArray

    @classmethod
    def of(cls, patients: int, runs: int, replicates: int = REPLICATES, seed: int = 0) -> "Resampling":
        """Draw as many patients, and as many runs, as there are, with replacement."""
        rng = np.random.default_rng(seed)
        weights = np.stack(
            [np.bincount(rng.integers(0, patients, patients), minlength=patients) for _ in range(replicates)]
        )
        return cls(weights.astype(np.float64), rng.random((replicates, runs)))


def replicated(run: Scores, patients: Sequence[str], resampling: Resampling) -> FloatArray:
    """Return a run's AUROC and average precision in each replicate, shape (replicates, 2); NaN without a class."""
    place = {patient: number for number, patient in enumerate(patients)}
    index = np.array([place[patient] for patient in run.patients])
    ranked = RankedScores.of(run.logits, run.targets, index)
    chunk = max(1, 500_000 // len(run.images))
    parts = [ranked.metrics(resampling.weights[i : i + chunk]) for i in range(0, len(resampling.weights), chunk)]
    return np.concatenate(parts)[:, :2]


def resampled(values: FloatArray, replicates: FloatArray, uniform: FloatArray) -> Difference:
    """Return a mean difference over runs by the bootstrap: the replicates' spread is its standard error.

    Args:
        values: of each run, shape (runs,).
        replicates: the same in each replicate of the patients, shape (runs, replicates).
        uniform: what draws the runs, shape (replicates, at least as many runs).
    """
    runs = len(values)
    drawn = np.floor(uniform[:, :runs] * runs).astype(np.int64)
    means = np.take_along_axis(replicates.T, drawn, axis=1).mean(axis=1)
    means = means[np.isfinite(means)]
    whole = normal_difference(float(np.mean(values)), float(means.std(ddof=1)), "bootstrap")
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(whole.value, float(low), float(high), whole.p, whole.method)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values (Scandinavian Journal of Statistics 1979), in the same order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of a metric over seeds and the half width of its 95 % t interval; NaN for one seed."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean, float(stats.t.ppf(0.975, n - 1)) * error
