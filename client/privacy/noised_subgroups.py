"""Histograms of a test part by subgroups with noise: of K attributes all cells at once, as one Gaussian mechanism.

Neighbouring data differ by all images of one unit, added or removed. A unit is in one cell of each attribute, that of
its own first image by name (`melfed.common.data.subgroups`), so nobody else changes cells with it. In that cell it
moves the measurements of both classes together by at most `SENSITIVITY`, as in any histogram
(`melfed.common.metrics.noisy_histogram`), and in the other cells of the attribute by nothing. The cells of K attributes
are different measurements, so together they move by at most

    √(SENSITIVITY² + … + SENSITIVITY²) = √K · SENSITIVITY.

Noise of σ times that on every measurement makes all of it one Gaussian mechanism with noise multiplier σ (sampling rate
1, one step), to be charged to the ledger before it leaves. How many cells an attribute has is of no account, and which
of them are too small to speak of is told by the noised counts alone.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import unit_shares
from melfed.common.data.records import LesionRecord
from melfed.common.data.subgroups import ATTRIBUTES, cells_of
from melfed.common.errors import StudyError
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy_histogram import SENSITIVITY, WEIGHTS, NoisyHistogram
from melfed.common.metrics.subgroups import variance_of_subgroups
from melfed.common.study.evaluation_noise import LARGEST_MULTIPLIER


def sensitivity(attributes: Sequence[str]) -> float:
    """Return by how much one unit moves all measurements of some attributes, Euclidean norm, in grid units."""
    return math.sqrt(len(attributes)) * SENSITIVITY


def noised_subgroups(
    records: Sequence[LesionRecord],
    logits: npt.ArrayLike,
    units: Sequence[str],
    attributes: Sequence[str],
    noise_multiplier: float,
    noise: NoiseSource,
    edges: FloatArray,
) -> dict[str, NoisyHistogram]:
    """Return the histogram of every cell with noise, all of them for the price of one Gaussian mechanism.

    Args:
        records: of the images.
        logits: of each image, shape (images,).
        units: the unit of each image.
        attributes: names of `ATTRIBUTES`, each once.
        noise_multiplier: σ, the noise over `sensitivity(attributes)`; 0 is no noise (and no privacy).
        noise: where the noise comes from.
        edges: ascending logits, shape (SCORE_BINS - 1,), from the released model (`melfed.common.metrics.score_edges`).

    Returns:
        By `melfed.common.data.subgroups.cell_names`, those that nobody is in too.

    Raises:
        DataError: lengths differ, or a logit is not a number.
        StudyError: the noise multiplier is negative, not a number, or above 10,000.
    """
    if not 0 <= noise_multiplier <= LARGEST_MULTIPLIER:
        raise StudyError(
            f"a noise multiplier of {noise_multiplier:g} for subgroups: state one from 0 to {LARGEST_MULTIPLIER:g}"
        )
    std = noise_multiplier * sensitivity(attributes)
    variance = np.array([variance_of_subgroups(noise_multiplier, len(attributes))], dtype=np.int64)
    scores, targets, names = np.asarray(logits), np.array([record.target for record in records]), np.array(units, str)
    histograms = {}
    for attribute in attributes:
        cells = cells_of(records, units, attribute)
        for number in range(len(ATTRIBUTES[attribute].cells)):
            there = cells == number
            shares = unit_shares(scores[there], targets[there], names[there].tolist(), edges)
            sums = {name: WEIGHTS[name] @ of_class for name, of_class in shares.items()}
            noised = {name: exact + noise.integers_gaussian(exact.shape, std) for name, exact in sums.items()}
            histograms[f"{attribute}/{number}"] = NoisyHistogram(edges, noise_variance=variance, **noised)
    return histograms
