"""AUROC where images come from several sources (clinics, cameras): within sources, and of the source alone.

A pair of a melanoma and another image is of one source or of two. With w the share of pairs of one source,

    pooled AUROC = w · (AUROC within sources) + (1 - w) · (AUROC across sources),

and only the first part says how well lesions of one clinic are told apart. The second one can be had without any look
at a lesion where prevalences differ: by telling the sources apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from melfed.common.metrics.intervals import UNDEFINED, Interval, proportion_interval, square_and_add
from melfed.simulations.comparison.statistics.differences import Scores, metrics_of

FEW = 10
"""Patients of a class of a source below which its own figure is withheld."""


@dataclass(frozen=True)
class OfSource:
    """One source's own images of a test part.

    Attributes:
        name: of the source.
        images: of it.
        melanomas: images of melanomas.
        fewest: patients with a melanoma, or with another image, whichever are fewer.
        auroc: undefined where one class is absent, or withheld.
    """

    name: str
    images: int
    melanomas: int
    fewest: int
    auroc: Interval

    @property
    def withheld(self) -> bool:
        """Whether it has too few patients of a class for a figure of its own."""
        return self.fewest < FEW


@dataclass(frozen=True)
class BySource:
    """What a run's scores are worth within sources.

    Attributes:
        within: share of pairs of a melanoma and another image of the same source in the right order, a tie as one half.
        alone: pooled AUROC of a score that is the prevalence of an image's source, and nothing else.
        sources: by name.
        of_images: the source of each of the scores' images.
    """

    within: Interval
    alone: float | None
    sources: tuple[OfSource, ...]
    of_images: tuple[str, ...]


def by_source(scores: Scores, sources: Sequence[str]) -> BySource:
    """Return what scores are worth within sources.

    The limits within sources are those of a sum of independent estimates, one a source (Zou & Donner, Statistics in
    Medicine 2008): each source's own limits, weighted by its pairs, also of sources whose own figure is withheld.

    Args:
        scores: of a test part.
        sources: where each image comes from, shape (n,).
    """
    of_source = np.array(sources)
    found, parts = [], []
    for name in sorted(set(sources)):
        own = scores.only(np.flatnonzero(of_source == name))
        auroc, melanomas = metrics_of(own).auroc, int(own.targets.sum())
        fewest = min(len({own.patients[i] for i in np.flatnonzero(own.targets == truth)}) for truth in (True, False))
        shown = auroc if fewest >= FEW else UNDEFINED
        found.append(OfSource(name, len(own.images), melanomas, fewest, shown))
        parts.append((melanomas * (len(own.images) - melanomas), auroc))
    return BySource(_weighted(parts), source_alone(scores.targets, sources), tuple(found), tuple(sources))


def _weighted(parts: Sequence[tuple[int, Interval]]) -> Interval:
    """Return the mean of estimates weighted by pairs; those without a pair are undefined, and count for nothing."""
    pairs = sum(weight for weight, _ in parts)
    value, reaches = 0.0, []
    for weight, auroc in parts:
        if auroc.value is None or auroc.low is None or auroc.high is None:
            continue
        share = weight / pairs
        value += share * auroc.value
        reaches.append((share * (auroc.value - auroc.low), share * (auroc.high - auroc.value)))
    return proportion_interval(value, *square_and_add(value, *reaches)) if reaches else UNDEFINED


def source_alone(targets: Sequence[int] | npt.NDArray[np.bool_], sources: Sequence[str]) -> float | None:
    """Return the AUROC of a score that is constant within a source: the share of its images that are melanomas.

    No other score that is constant within sources has a larger one on these images. It is counted in whole numbers.

    Args:
        targets: whether each image is a melanoma, shape (n,).
        sources: where it comes from, shape (n,).

    Returns:
        None where one class is absent.

    >>> source_alone([1, 1, 0, 1, 0, 0], ["A", "A", "A", "B", "B", "B"])
    0.6666666666666666
    >>> source_alone([1, 0, 1, 0], ["A", "A", "B", "B"])  # of equal prevalence
    0.5
    """
    images = Counter(sources)
    melanomas = Counter(source for source, target in zip(sources, targets, strict=True) if target)
    others = {source: number - melanomas[source] for source, number in images.items()}
    pairs = sum(melanomas.values()) * sum(others.values())
    if not pairs:
        return None
    twice = 0
    for own in images:
        for other in images:
            ahead = melanomas[own] * images[other] - melanomas[other] * images[own]
            twice += melanomas[own] * others[other] * (2 if ahead > 0 else 1 if ahead == 0 else 0)
    return twice / (2 * pairs)
