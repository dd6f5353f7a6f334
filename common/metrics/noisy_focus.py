"""The part of a noised histogram in which the scores lie: its bins there, the others joined to the outermost ones.

Edges that follow the model alone reach far beyond the scores. What is chosen here hangs on noised counts, which are
public, so it costs no privacy; the sums over joined bins are as unbiased as the bins.
"""

from dataclasses import dataclass

import numpy as np

from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy_histogram import NoisyHistogram

_MOST_EDGES = 95
_LEAST_EDGES = 15
_REACH = 5.0
"""Of the bins beyond the quartiles, in distances between these: of a normal density they have all but 1e-12."""
CLASSES = ("negatives", "positives")


@dataclass(frozen=True, eq=False)
class Focus:
    """Counts of both classes in fewer bins.

    Attributes:
        edges: ascending logits, shape (bins - 1,), some of those of the histogram; 0 is kept where it is one.
        counts: unbiased, of `negatives` and `positives`, shape (bins,).
        noise: covariance of their noise, shape (bins, bins).
    """

    edges: FloatArray
    counts: dict[str, FloatArray]
    noise: dict[str, FloatArray]


def focus(h: NoisyHistogram) -> Focus:
    """Return the counts where most of both classes lie, whose totals must be clearly positive."""
    kept = _kept(h)
    start = np.concatenate(([0], kept + 1))
    counts = {name: np.add.reduceat(h.counts(name), start) for name in CLASSES}
    noise = {name: np.add.reduceat(np.add.reduceat(h.noise(name), start, axis=0), start, axis=1) for name in CLASSES}
    return Focus(h.edges[kept], counts, noise)


def _kept(h: NoisyHistogram) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the numbers of the edges that are kept."""
    ranges = [_range(h.counts(name), h.edges) for name in CLASSES]
    first = int(np.searchsorted(h.edges, min(low for low, _ in ranges)))
    last = int(np.searchsorted(h.edges, max(high for _, high in ranges), side="right"))
    lacking = max(0, _LEAST_EDGES - (last - first))
    first = max(0, min(first - lacking // 2, len(h.edges) - _LEAST_EDGES))
    last = min(len(h.edges), max(last + lacking - lacking // 2, _LEAST_EDGES))
    zero = np.flatnonzero(h.edges == 0)
    every = -(-(last - first) // _MOST_EDGES)
    numbers = np.arange(first, last)
    numbers = numbers[(numbers - (zero[0] if zero.size else first)) % every == 0]
    return np.union1d(numbers, zero).astype(np.int64)


def _range(counts: FloatArray, edges: FloatArray) -> tuple[float, float]:
    """Return the logits between which a class lies, by its quartiles."""
    sums = np.cumsum(counts)
    # Noise lets them fall at times: midway between the least and the largest rising ones.
    rising = (np.maximum.accumulate(sums) + np.minimum.accumulate(sums[::-1])[::-1]) / 2
    lower, upper = np.searchsorted(rising, np.array([0.25, 0.75]) * sums[-1])
    low, high = edges[max(lower - 1, 0)], edges[min(upper, len(edges) - 1)]
    distance = high - low
    return float(low - _REACH * distance), float(high + _REACH * distance)
