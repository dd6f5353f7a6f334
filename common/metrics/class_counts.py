"""Both classes of an evaluation set by score, with how uncertain every count is, in histograms of either kind.

Noised counts are unbiased, and the covariance of their noise is known, so whatever is linear in them is unbiased with a
known variance, however the scores are spread: sampling error (Poisson's law, and Kish's effective sizes where images of
a patient are no independent ones), and noise. Smooth densities stand beside the counts, to choose by and to weigh by;
what hung on them alone was off where scores were skewed (a sensitivity's interval then held the truth in 0.5 of 80
federations, and this one in 0.9). Sampling variance shrinks with the number of melanomas and that of noise with its
square, which says how many would be needed.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from melfed.common.metrics.density_fit import fit_density
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import Z95, FloatArray, Interval
from melfed.common.metrics.noisy import SURE, densities
from melfed.common.metrics.noisy_focus import CLASSES, focus
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram

WITHIN: FloatArray = (np.arange(8) + 0.5) / 8
"""Points of a noised bin, over which its images are taken to be spread."""
ROUGH = 1e3
"""Smoothness of the densities: thresholds by smoother ones were off by up to 0.03 of sensitivity for skewed scores."""
_INNERMOST = 1e-6
"""Nearest to 0 and 1 at which a logit is taken."""


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Counts by score bin, in the order of the scores.

    Attributes:
        low: least logit of each bin, shape (bins,).
        high: largest logit of it, shape (bins,).
        places: logits that its images are taken to have, equally often, shape (bins, points).
        negatives: images (or units) by bin, unbiased: below 0 at times where there is noise; shape (bins,).
        positives: melanomas by bin.
        smooth: negatives and positives by bin as smooth densities have them, positive; the counts themselves without
            noise.
        sizes: independent negatives and positives.
        noise: covariances of the noise of negatives and positives, shape (bins, bins); None: there is none.
    """

    low: FloatArray
    high: FloatArray
    places: FloatArray
    negatives: FloatArray
    positives: FloatArray
    smooth: tuple[FloatArray, FloatArray]
    sizes: tuple[float, float]
    noise: tuple[FloatArray, FloatArray] | None = None

    def covariance(self, negatives: FloatArray, positives: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the covariances of k quantities by sampling and by noise, each of shape (k, k).

        Args:
            negatives: slopes of the quantities by the counts of negatives, shape (bins, k).
            positives: by those of positives.
        """
        sampling, noise = np.zeros((negatives.shape[1],) * 2), np.zeros((negatives.shape[1],) * 2)
        for place, slopes in enumerate((negatives, positives)):
            counts = self.smooth[place]
            each = counts * (counts.sum() / self.sizes[place])
            sampling += slopes.T @ (each[:, None] * slopes)
            if self.noise is not None:
                noise += slopes.T @ self.noise[place] @ slopes
        return sampling, noise


@dataclass(frozen=True)
class Uncertain:
    """A number with its variances by sampling and by noise."""

    value: float
    sampling: float
    noise: float

    @property
    def deviation(self) -> float:
        """Standard deviation of the whole."""
        return math.sqrt(max(self.sampling + self.noise, 0.0))

    def interval(self) -> Interval:
        """Return the value with its limits, as far below as above."""
        half = Z95 * self.deviation
        return Interval(value=self.value, low=self.value - half, high=self.value + half)

    def proportion(self, least: tuple[float, float] | None = None, reach: float = 0.0) -> Interval:
        """Return the value with limits within [0, 1]: on the logit scale, or with noise as far below as above.

        Args:
            least: limits that the interval has in any case.
            reach: how far the order within the bins may shift the value.
        """
        half = math.hypot(Z95 * self.deviation, reach)
        if self.noise:
            low, high = self.value - half, self.value + half
        else:
            inside = min(max(self.value, _INNERMOST), 1 - _INNERMOST)
            centre, width = math.log(inside / (1 - inside)), half / (inside * (1 - inside))
            low, high = _expit(centre - width), _expit(centre + width)
        if least is not None:
            low, high = min(low, least[0]), max(high, least[1])
        value = min(1.0, max(0.0, self.value))
        return Interval(value=value, low=min(value, max(0.0, low)), high=max(value, min(1.0, high)))

    def needed(self, half: float, positives: float) -> int:
        """Return how many melanomas, about, an interval of this half-width takes; `positives` is how many there are."""
        # With c times as many of both classes the variance is sampling / c + noise / c².
        wanted = (half / Z95) ** 2
        factor = (self.sampling + math.sqrt(self.sampling**2 + 4 * wanted * self.noise)) / (2 * wanted)
        return max(1, math.ceil(factor * positives))


@lru_cache(maxsize=8)  # a histogram never changes, and several things are asked of one
def class_counts(h: Histogram) -> ClassCounts | None:
    """Return the classes of a histogram, or None where one of them is absent or hidden by the noise."""
    return _noised(h) if isinstance(h, NoisyHistogram) else _exact(h)


def melanomas_to_show(h: Histogram) -> int:
    """Return how many melanomas, about, a histogram needs for both classes to show: 1 without noise."""
    if not isinstance(h, NoisyHistogram):
        return 1
    return max(1, math.ceil(SURE * math.sqrt(float(h.noise("positives").sum()))))


def _exact(h: ScoreHistogram) -> ClassCounts | None:
    if not (h.positives.any() and h.negatives.any()):
        return None
    order = np.argsort(h.middle, kind="stable")
    negatives, positives = (counts[order].astype(np.float64) for counts in (h.negatives, h.positives))
    sizes = h.effective_sizes
    both = (negatives, positives)
    return ClassCounts(h.low[order], h.high[order], h.middle[order][:, None], *both, both, sizes)


def _noised(h: NoisyHistogram) -> ClassCounts | None:
    found = densities(h)
    if found is None:
        return None
    edges, near = found[0].edges, focus(h)
    # The outermost bins have no end: they are taken to be as wide as their neighbours.
    ends = np.concatenate(([2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]))
    low, high = ends[:-1], ends[1:]
    places = low[:, None] + (high - low)[:, None] * WITHIN
    negatives, positives = (near.counts[name] for name in CLASSES)
    if h.noise_variance[0] == 0:
        both = np.maximum(negatives, 0.0), np.maximum(positives, 0.0)
        return ClassCounts(low, high, places, *both, both, (float(both[0].sum()), float(both[1].sum())))
    rough = [fit_density(near.counts[name], near.noise[name], edges, (ROUGH,)).counts for name in CLASSES]
    noise = near.noise[CLASSES[0]], near.noise[CLASSES[1]]
    sizes = (float(rough[0].sum()), float(rough[1].sum()))
    return ClassCounts(low, high, places, negatives, positives, (rough[0], rough[1]), sizes, noise)


def _expit(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-min(logit, 700.0)))
    small = math.exp(max(logit, -700.0))
    return small / (1 + small)
