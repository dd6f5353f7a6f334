"""Class-wise moments of a clinic's features with noise: all that a study of one round asks of its training patients.

`melfed.common.moments.noisy_moments` says what is measured, and derives by how much one unit moves it: `SENSITIVITY`.
Gaussian noise of σ times that makes the release one Gaussian mechanism with noise multiplier σ (sampling rate 1, one
step), to be charged to the ledger before it leaves.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from melfed.client.privacy.noise import NoiseSource
from melfed.common.errors import DataError, StudyError
from melfed.common.moments.noisy_moments import (
    CLASSES,
    OF_BOTH,
    SCALE,
    SENSITIVITY,
    FloatArray,
    IntArray,
    MomentClass,
    NoisyMoments,
    length_of,
    noise_variance,
    vectors,
)

SummarisedPart = Literal["train", "validation"]
Features = tuple[npt.NDArray[np.float32], npt.ArrayLike, Sequence[str]]

_CHUNK: Final = 512
"""Units whose outer products are in memory at a time."""


def noised_moments(
    parts: Mapping[SummarisedPart, Features], noise_multiplier: float, noise: NoiseSource
) -> dict[SummarisedPart, NoisyMoments]:
    """Return each part's moments with noise, all of them for the price of one Gaussian mechanism.

    Args:
        parts: features (n, d), targets and the unit of each image, all of one length. No unit may be in two parts: that
            is what makes one price enough.
        noise_multiplier: σ, the noise over the sensitivity; 0 is no noise (and no privacy).
        noise: where the noise comes from.

    Raises:
        DataError: a unit is in two parts, or lengths differ.
        StudyError: the noise multiplier is negative, or not a number.
    """
    if not noise_multiplier >= 0:
        raise StudyError(f"a noise multiplier of {noise_multiplier:g} for the moments: state one of at least 0")
    _check_disjoint({part: units for part, (_, _, units) in parts.items()})
    std = noise_multiplier * SENSITIVITY
    moments: dict[SummarisedPart, NoisyMoments] = {}
    for part, content in parts.items():
        sums = unit_moments(*content)
        noised = {name: exact + noise.integers_gaussian(exact.shape, std) for name, exact in sums.items()}
        moments[part] = NoisyMoments(noise_variance=noise_variance(noise_multiplier), **noised)
    return moments


def unit_moments(
    features: npt.NDArray[np.float32], targets: npt.ArrayLike, units: Sequence[str]
) -> dict[MomentClass, IntArray]:
    """Return the exact moments of each class, in grid units, shape (`length_of`,).

    One unit adds at most `SENSITIVITY` to the two together. This is private: it never leaves the clinic.

    Args:
        features: of each image, shape (n, d). What is no number counts as 0: to fail on it would tell something about a
            patient, without noise.
        targets: 0 or 1 of each image, shape (n,).
        units: of each image.

    Raises:
        DataError: lengths differ, or a target is not 0 or 1.
    """
    positive = np.asarray(targets).astype(np.float64)
    if not len(features) == len(positive) == len(units):
        raise DataError(f"{len(features)} rows of features, {len(positive)} targets and {len(units)} units")
    if not np.isin(positive, (0.0, 1.0)).all():
        raise DataError("a target is neither 0 nor 1")
    names, unit = np.unique(np.array(units, dtype=str), return_inverse=True)
    shortened = _shortened(features)
    chosen = dict(zip(CLASSES, (positive == 1, positive == 0), strict=True))
    images = {name: np.bincount(unit[some], minlength=len(names)) for name, some in chosen.items()}
    both = (images["positives"] > 0) & (images["negatives"] > 0)
    moments: dict[MomentClass, IntArray] = {}
    for name in CLASSES:
        means = np.zeros((len(names), features.shape[1]))
        np.add.at(means, unit[chosen[name]], shortened[chosen[name]])
        there = images[name] > 0
        means = means[there] / images[name][there, None]
        moments[name] = _sum(means, np.where(both[there], OF_BOTH[name], 1.0))
    return moments


def _shortened(features: npt.NDArray[np.float32]) -> FloatArray:
    """Return features in double precision, each row shortened to a norm of at most 1, shape (n, d)."""
    values = np.where(np.isfinite(features), features, 0.0).astype(np.float64)
    norms = np.sqrt((values * values).sum(axis=1, keepdims=True))
    return np.asarray(values / np.maximum(norms, 1.0))


def _sum(means: FloatArray, weights: FloatArray) -> IntArray:
    """Return the sum of what units of these means and weights add, each rounded towards 0 on the grid."""
    total = np.zeros(length_of(means.shape[1]), np.int64)
    for start in range(0, len(means), _CHUNK):
        some = slice(start, start + _CHUNK)
        shares = vectors(means[some]) * (weights[some, None] * SCALE)
        total += np.trunc(shares).astype(np.int64).sum(axis=0)
    return total


def _check_disjoint(units: Mapping[SummarisedPart, Sequence[str]]) -> None:
    names = [set(of_part) for of_part in units.values()]
    if sum(map(len, names)) > len(set().union(*names)):
        raise DataError(
            "a patient is in the training and in the validation part, so one release would cost twice; "
            "split the data by patient"
        )
