"""Score histograms with noise: how good a model is on a clinic's patients, without telling about any of them.

Neighbouring data differ by all images of one unit. `melfed.common.metrics.noisy_histogram` says what is measured; one
unit moves all measurements together by at most `SENSITIVITY`, so Gaussian noise of σ times that makes the release one
Gaussian mechanism with noise multiplier σ (sampling rate 1, one step), to be charged to the ledger before it leaves.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from melfed.client.privacy.noise import NoiseSource
from melfed.common.errors import DataError, StudyError
from melfed.common.metrics.histogram import check_scores
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy_histogram import SENSITIVITY, SHARES, WEIGHTS, NoisyHistogram, noise_variance
from melfed.common.metrics.score_bins import IntArray
from melfed.common.study.evaluation_noise import LARGEST_MULTIPLIER

# Weights of a unit that has images of both classes: 4² + 3² = 5², so together they move as far as those of any other.
_OF_BOTH = {"positives": SHARES * 4 // 5, "negatives": SHARES * 3 // 5}

EvaluatedPart = Literal["validation", "test"]
Scores = tuple[npt.ArrayLike, npt.ArrayLike, Sequence[str]]


def noised_histograms(
    parts: Mapping[EvaluatedPart, Scores], noise_multiplier: float, noise: NoiseSource, edges: FloatArray
) -> dict[EvaluatedPart, NoisyHistogram]:
    """Return each part's histogram with noise, all of them for the price of one Gaussian mechanism.

    Args:
        parts: logits, targets and the unit of each image, all of one length. No unit may be in two parts: that
            is what makes one price enough.
        noise_multiplier: σ, the noise over the sensitivity; 0 is no noise (and no privacy).
        noise: where the noise comes from.
        edges: ascending logits, shape (SCORE_BINS - 1,), from the released model (`melfed.common.metrics.score_edges`).
        Whatever they
            are, as long as they do not hang on the clinic's data, a unit moves the measurements by the same.

    Raises:
        DataError: a unit is in two parts, lengths differ, a logit is not a number, or a target is not 0 or 1.
        StudyError: the noise multiplier is negative, not a number, or above 10,000.
    """
    if not 0 <= noise_multiplier <= LARGEST_MULTIPLIER:
        raise StudyError(
            f"a noise multiplier of {noise_multiplier:g} for the evaluation: state one from 0 to {LARGEST_MULTIPLIER:g}"
        )
    _check_disjoint({part: units for part, (_, _, units) in parts.items()})
    std = noise_multiplier * SENSITIVITY
    variance = np.array([noise_variance(noise_multiplier)], dtype=np.int64)
    histograms: dict[EvaluatedPart, NoisyHistogram] = {}
    for part, scores in parts.items():
        sums = {name: WEIGHTS[name] @ shares for name, shares in unit_shares(*scores, edges).items()}
        noised = {name: exact + noise.integers_gaussian(exact.shape, std) for name, exact in sums.items()}
        histograms[part] = NoisyHistogram(edges, noise_variance=variance, **noised)
    return histograms


def unit_shares(
    logits: npt.ArrayLike, targets: npt.ArrayLike, units: Sequence[str], edges: FloatArray
) -> dict[str, IntArray]:
    """Return `positives` and `negatives`: exact weights by score bin, in units of 1/SHARES, shape (bins,).

    One unit adds at most SHARES to the arrays together if it has images of one class, and at most 4/5 and 3/5 of that
    to the two if it has both. This is private: it never leaves the clinic.

    Raises:
        DataError: lengths differ, a logit is not a number, or a target is not 0 or 1.
    """
    x, y, unit = check_scores(logits, targets, units)
    bins = np.searchsorted(edges, x, side="right")
    images = {name: np.bincount(unit[chosen], minlength=unit.max(initial=-1) + 1) for name, chosen in _classes(y)}
    both = (images["positives"] > 0) & (images["negatives"] > 0)
    shares = {}
    for name, chosen in _classes(y):
        weight = np.where(both, _OF_BOTH[name], SHARES)
        of = unit[chosen]
        shares[name] = np.zeros(len(edges) + 1, dtype=np.int64)
        np.add.at(shares[name], bins[chosen], weight[of] // images[name][of])  # rounded down: never above the weight
    return shares


def _classes(targets: npt.NDArray[np.bool_]) -> tuple[tuple[str, npt.NDArray[np.bool_]], ...]:
    return ("positives", targets), ("negatives", ~targets)


def _check_disjoint(units: Mapping[EvaluatedPart, Sequence[str]]) -> None:
    seen: dict[str, EvaluatedPart] = {}
    for part, names in units.items():
        for name in set(names):
            if name in seen:
                raise DataError(
                    f"a patient is in the {seen[name]} and in the {part} part, so one release would cost twice; "
                    "split the data by patient"
                )
            seen[name] = part
