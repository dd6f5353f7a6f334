"""How well a model does in subgroups of patients, from a histogram of scores a cell, and how far subgroups differ.

Cells are those of `melfed.common.data.subgroups`, or clinics. Of each there are the AUROC, the sensitivity at a
threshold that all share, and calibration in the large: the mean probability less the share of melanomas, above 0 where
the model says too much. Each has its 95 % interval.

- **Too few.** Nothing is told of a cell with fewer than `FEWEST` melanomas, or others, or, where there is noise, with a
  class that is not above three of its standard deviations (`melfed.common.metrics.noisy.densities`). Of noised
  histograms that follows from the noised counts alone, so it tells no more than they do.
- **Intervals** of noised histograms are those of `melfed.common.metrics.noisy`; of exact ones, the AUROC's is that of
  `melfed.common.metrics.exact`, and proportions have Wilson's, with Kish's effective sizes. Calibration takes the
  probabilities as given, so that its interval is that of the share of melanomas.
- **The largest gap** is that between the best and the worst cell. Whoever picks the two ends out of m cells finds a gap
  where there is none, so its interval is that of the worst of all m (m - 1) / 2 differences (Bonferroni), by squares of
  the cells' own limits (Newcombe 1998), cells being different patients: it is wider than that of two cells that were
  named before.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from melfed.common.data.records import LesionRecord
from melfed.common.data.subgroups import ATTRIBUTES, cells_of
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.metrics.histogram import UNIT, ScoreHistogram, sigmoid
from melfed.common.metrics.intervals import (
    UNDEFINED,
    Z95,
    FloatArray,
    Interval,
    proportion_interval,
    square_and_add,
    wilson,
)
from melfed.common.metrics.noisy import Densities, densities, deviations, noisy_metrics, widened
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram, noise_variance
from melfed.common.metrics.score_bins import MOST_BINS

FEWEST = 10
"""Melanomas, and others, that a subgroup must have for anything to be told of it."""
MEASURES = ("auroc", "sensitivity", "calibration")


class SubgroupMetrics(BaseModel):
    """How a model does in one subgroup; intervals are undefined where it has too few.

    Attributes:
        units: images, or of noised histograms units, that it has; with noise about so many.
        melanomas: of these.
        auroc: as everywhere.
        sensitivity: share of melanomas at or above the threshold.
        calibration: mean probability less the share of melanomas, from -1 to 1.
        too_few: whether nothing can be told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: int
    melanomas: int
    auroc: Interval = UNDEFINED
    sensitivity: Interval = UNDEFINED
    calibration: Interval = UNDEFINED
    too_few: bool = False


class Gap(BaseModel):
    """The largest difference of a measure between two subgroups.

    Attributes:
        measure: one of `MEASURES`.
        lowest: the subgroup where it is least.
        highest: where it is most.
        gap: the difference, at least 0, with the interval of the worst of all pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str
    lowest: str
    highest: str
    gap: Interval


def exact_subgroups(
    records: Sequence[LesionRecord],
    logits: npt.ArrayLike,
    groups: Sequence[str],
    attributes: Sequence[str],
    most: int = MOST_BINS,
) -> dict[str, ScoreHistogram]:
    """Return the histogram of every cell of some attributes, without noise, by `cell_names`.

    Args:
        records: of the images.
        logits: of each image, shape (images,).
        groups: what each image is counted with: its patient, where the table has patients.
        attributes: names of `ATTRIBUTES`.
        most: score bins of each.

    Raises:
        DataError: lengths differ, or a logit is not a number.
    """
    scores, names = np.asarray(logits, np.float64), np.array(groups, str)
    targets = np.array([record.target for record in records])
    found = {}
    for attribute in attributes:
        cells = cells_of(records, groups, attribute)
        for number in range(len(ATTRIBUTES[attribute].cells)):
            there = cells == number
            parts = scores[there], targets[there], names[there].tolist()
            found[f"{attribute}/{number}"] = ScoreHistogram.from_scores(*parts, most)
    return found


def variance_of_subgroups(noise_multiplier: float, attributes: int) -> int:
    """Return what `noise_variance` the histograms of so many attributes' cells state, released with this σ.

    σ is over the sensitivity of all attributes together, √K times that of one histogram.
    """
    return noise_variance(noise_multiplier * math.sqrt(attributes))


def subgroup_metrics(h: Histogram, threshold: float) -> SubgroupMetrics:
    """Return how a model does in a subgroup.

    Args:
        h: its histogram, with noise or without.
        threshold: probability from which on an image is called melanoma.

    >>> h = ScoreHistogram.from_scores([2.0] * 12 + [-2.0] * 12, [1] * 12 + [0] * 12, list("abcdefghijklmnopqrstuvwx"))
    >>> found = subgroup_metrics(h, 0.5)
    >>> found.melanomas, found.auroc.value, found.sensitivity.value, round(found.calibration.value, 3)
    (12, 1.0, 1.0, 0.0)
    """
    return _noised(h, threshold) if isinstance(h, NoisyHistogram) else _exact(h, threshold)


def largest_gap(measure: str, subgroups: Mapping[str, Interval]) -> Gap | None:
    """Return the largest difference between subgroups; None where fewer than two are defined.

    >>> auroc = {"male": Interval(value=0.8, low=0.7, high=0.9), "female": Interval(value=0.9, low=0.8, high=0.95)}
    >>> found = largest_gap("auroc", auroc)
    >>> found.lowest, found.highest, round(found.gap.value, 2), round(found.gap.low, 2), round(found.gap.high, 2)
    ('male', 'female', 0.1, 0.0, 0.21)
    """
    told = [(float(i.value), name, i) for name, i in subgroups.items() if i.value is not None]
    if len(told) < 2:
        return None
    (least, lowest, below), (most, highest, above) = min(told, key=_value), max(reversed(told), key=_value)
    # The worst of all pairs: an interval of a difference for each of them, all of which hold in 95 % of all cases.
    wider = NormalDist().inv_cdf(1 - 0.025 / math.comb(len(told), 2)) / Z95
    (down, up), (down_of_least, up_of_least) = (_reach(i, wider) for i in (above, below))
    low, high = square_and_add(most - least, (down, up), (up_of_least, down_of_least))
    limit = 2.0 if measure == "calibration" else 1.0
    interval = Interval(value=most - least, low=max(0.0, low), high=min(high, limit))
    return Gap(measure=measure, lowest=lowest, highest=highest, gap=interval)


def _value(told: tuple[float, str, Interval]) -> float:
    return told[0]


def _reach(interval: Interval, wider: float) -> tuple[float, float]:
    """Return how far the limits lie below and above the value, so many times."""
    value, low, high = interval.value or 0.0, interval.low or 0.0, interval.high or 0.0
    return (value - low) * wider, (high - value) * wider


def _exact(h: ScoreHistogram, threshold: float) -> SubgroupMetrics:
    positives, images = int(h.positives.sum()), h.images
    counts = {"units": images, "melanomas": positives}
    if min(positives, images - positives) < FEWEST:
        return SubgroupMetrics(**counts, too_few=True)
    negatives_size, positives_size = h.effective_sizes
    hits = float(h.positives[sigmoid(h.middle) >= threshold].sum()) / positives
    low, high = (float(limit) for limit in wilson(hits, positives_size))
    share, said = positives / images, float(h.calibration_sums.sum()) * UNIT / images
    least, most = (float(limit) for limit in wilson(share, negatives_size + positives_size))
    return SubgroupMetrics(
        **counts,
        auroc=histogram_metrics(h).auroc,
        sensitivity=Interval(value=hits, low=low, high=high),
        calibration=Interval(value=said - share, low=said - most, high=said - least),
    )


def _noised(h: NoisyHistogram, threshold: float) -> SubgroupMetrics:
    negatives, positives = (max(0.0, float(h.counts(name).sum())) for name in ("negatives", "positives"))
    units, melanomas = round(negatives + positives), round(positives)
    found = densities(h) if min(negatives, positives) >= FEWEST else None
    if found is None:
        return SubgroupMetrics(units=units, melanomas=melanomas, too_few=True)
    return SubgroupMetrics(
        units=units,
        melanomas=melanomas,
        auroc=noisy_metrics(h).auroc,
        sensitivity=_noised_sensitivity(found, threshold),
        calibration=_noised_calibration(found),
    )


def _noised_sensitivity(found: Densities, threshold: float) -> Interval:
    """Return the share of melanomas at or above a threshold, on a straight line within the bin that it lies in."""
    edges = found[0].edges
    logit = math.log(threshold / (1 - threshold))
    place = int(np.searchsorted(edges, logit, side="right"))
    above = np.zeros(len(edges) + 1)
    above[place + 1 :] = 1.0
    # The outermost bins have no end: a threshold in one of them takes all of it.
    inside = 0 < place < len(edges)
    above[place] = (edges[place] - logit) / (edges[place] - edges[place - 1]) if inside else 1.0

    def share(_negatives: FloatArray, positives: FloatArray) -> FloatArray:
        # The two sums are rounded each in its own way: of all melanomas, the share could be a little more than 1.
        value: FloatArray = np.minimum(positives @ above / positives.sum(-1), 1.0)[..., None]
        return value

    value = share(found[0].counts, found[1].counts).clip(0.0, 1.0)  # both sums are rounded
    low, high = widened(value, deviations(share, found), wilson(value, found[1].counts.sum()))
    return proportion_interval(float(value[0]), float(low[0]), float(high[0]))


def _noised_calibration(found: Densities) -> Interval:
    """Return the mean probability less the share of melanomas; scores are taken to lie midway within their bins.

    How far that may lead astray is added to the interval on either side.
    """
    ends = np.concatenate(([0.0], sigmoid(found[0].edges), [1.0]))
    middle, half = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2

    def excess(negatives: FloatArray, positives: FloatArray) -> FloatArray:
        every = negatives + positives
        value: FloatArray = ((every @ middle - positives.sum(-1)) / every.sum(-1))[..., None]
        return value

    negatives, positives = (density.counts for density in found)
    value = float(excess(negatives, positives)[0])
    binning = float((negatives + positives) @ half / (negatives.sum() + positives.sum()))
    reach = Z95 * float(deviations(excess, found)[0]) + binning
    return Interval(value=value, low=max(value - reach, -1.0), high=min(value + reach, 1.0))
