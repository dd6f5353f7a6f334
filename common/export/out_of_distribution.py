"""Whether a picture is like any that the statistics of a model's features know.

The distance is Mahalanobis's in the space of what the head sees (Lee et al. 2018, arXiv 1807.03888), of a normal
distribution whose covariance is its leading directions and one variance for all others (Tipping and Bishop 1999,
probabilistic principal components): as many images as there are at hand would not give a whole covariance of a thousand
features. Each feature is brought to unit variance first.

The statistics are of public images, or of moments that clinics released with noise: nothing here looks at a patient.
"""

import base64
import math
from collections.abc import Sequence
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from melfed.common.errors import DataError, RunError
from melfed.common.moments.noisy_moments import CLASSES, NoisyMoments
from melfed.common.study.protocol import Section

FloatArray = npt.NDArray[np.float32]

FALSE_ALARMS: Final = 0.05
"""Share of pictures of the known kind that are called unlike, where nobody asks for another."""
MOST_DIRECTIONS: Final = 32
MOST_WHOLE: Final = 64
"""Of so few features, such as a neck's, every direction has a variance of its own."""
MOST_NUMBERS: Final = 100_000
"""Of all directions together: what is told of a model travels as one text."""
LEAST_DEVIATION: Final = 0.3
"""Of the median deviation: a feature that hardly ever moves in a few hundred images would decide all by itself when it
does (statistics of HAM10000 in an ImageNet network called 57 % of rendered lesions unlike with 1e-3, 85 % with 0.3)."""
LEAST_VARIANCE: Final = 1e-3
"""Of directions that standardised features hardly vary along: below it, rounding would decide."""
NOISED_FLOOR: Final = 3.0
"""Of the mean variance: features have longer tails than a normal distribution, most of all where they hardly vary. On
HAM10000, behind a neck of EfficientNet-Lite0, χ²'s 5 % were 22 % with 1, and 8 % with 3."""
UNLIKE: Final = "unlike anything this model has seen"
NO_STATISTICS: Final = "the model carries no statistics of what it has seen: nobody is warned of a picture unlike that"
_LEAST: Final = 1e-6


class FeatureStatistics(Section):
    """Mean and covariance of the features that a model's head sees, and the distance from which on a picture is unlike.

    Attributes:
        origin: `public`: of public images; `noised`: of moments that clinics released with noise.
        images: how many images they are of; None where noise hides it.
        false_alarms: share of pictures of the known kind that are called unlike.
        chosen_on: what the threshold follows from, in words.
        threshold: of the distance, from which on a picture is unlike.
        features: how many there are.
        directions: how many of them have a variance of their own.
        packed: base64 of little-endian float32: mean, scale (features each), variances (directions), rest (1), and the
            directions one after the other (directions × features).
    """

    origin: Literal["public", "noised"]
    images: int | None = Field(None, ge=1)
    false_alarms: float = Field(gt=0, lt=1)
    chosen_on: str
    threshold: float = Field(gt=0)
    features: int = Field(ge=1, le=1 << 16)
    directions: int = Field(ge=1, le=1 << 12)
    packed: str = Field(repr=False)

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        _, scale, variances, rest, directions = self.arrays()
        if not all(np.isfinite(each).all() for each in self.arrays()):
            raise ValueError("a number of the features' statistics is not finite")
        if not ((scale > 0).all() and (variances > 0).all() and rest > 0):
            raise ValueError("a variance of the features' statistics is not positive")
        if (np.linalg.norm(directions, axis=1) > 1 + 1e-3).any():
            raise ValueError("a direction of the features' statistics is longer than 1")
        return self

    @classmethod
    def pack(
        cls,
        mean: FloatArray,
        scale: FloatArray,
        variances: FloatArray,
        rest: float,
        directions: FloatArray,
        **told: object,
    ) -> Self:
        """Return statistics of these arrays; `told` are the other attributes."""
        numbers = np.concatenate([mean, scale, variances, [rest], directions.ravel()]).astype("<f4")
        packed = base64.b64encode(numbers.tobytes()).decode("ascii")
        counts = {"features": len(mean), "directions": len(directions)}
        return cls.model_validate({**told, **counts, "packed": packed})

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return mean and scale (features,), variances (directions,), rest (), and directions (directions, features).

        Raises:
            ValueError: the text is not of so many numbers.
        """
        numbers = np.frombuffer(base64.b64decode(self.packed, validate=True), "<f4")
        d, k = self.features, self.directions
        if len(numbers) != 2 * d + k + 1 + k * d:
            raise ValueError("the features' statistics are not of so many features and directions")
        mean, scale, variances, rest, flat = np.split(numbers, np.cumsum([d, d, k, 1]))
        return mean, scale, variances, rest.reshape(()), flat.reshape(k, d)

    def scores(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return each image's distance over the threshold, shape (n,), from features (n, `features`): above 1: unlike.

        Raises:
            RunError: the model has another number of features.
        """
        if features.shape[1] != self.features:
            raise RunError(
                f"the statistics are of {self.features} features, and the model has {features.shape[1]}; make them anew"
            )
        return self._distances(features) / self.threshold

    def _distances(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        mean, scale, variances, rest, directions = (each.astype(np.float64) for each in self.arrays())
        values = features.astype(np.float64)
        standard = (values - mean) / scale
        along = standard @ directions.T
        off = np.maximum((standard**2).sum(1) - (along**2).sum(1), 0)
        squares: npt.NDArray[np.float64] = ((along**2 / variances).sum(1) + off / rest) / self.features
        return np.sqrt(squares)

    def in_words(self) -> str:
        """Return one line: of what the statistics are, and how the threshold was chosen.

        >>> rng = np.random.default_rng(0)
        >>> of_public(rng.normal(size=(90, 4)), [False] * 60 + [True] * 30).in_words()
        'of 60 public images; false alarms 0.05, chosen on 30 public images held out'
        """
        of = {"public": f"of {self.images} public images", "noised": "of moments that clinics released with noise"}
        return f"{of[self.origin]}; false alarms {self.false_alarms:g}, chosen {self.chosen_on}"


def of_public(
    features: npt.NDArray[np.floating], held_out: Sequence[bool], false_alarms: float = FALSE_ALARMS
) -> FeatureStatistics:
    """Return statistics of public images.

    The threshold is the conformal quantile of the images held out: a further picture of their kind is above it with a
    probability of at most `false_alarms` (Vovk et al. 2005), whatever the features are distributed like.

    Args:
        features: shape (n, d).
        held_out: which of the images the threshold follows from; the statistics are of the others.
        false_alarms: share of pictures of this kind that may be called unlike.

    Raises:
        DataError: too few images for it.
    """
    out = np.asarray(held_out, bool)
    known, new = features[~out].astype(np.float64), features[out]
    rank = math.ceil((len(new) + 1) * (1 - false_alarms))
    if len(known) < 2 or rank > len(new):
        needed = math.ceil(1 / false_alarms - 1)
        raise DataError(
            f"{len(known)} and {len(new)} images are too few for statistics and a false-alarm rate of "
            f"{false_alarms:g}: it takes 2 and {needed}; give more public images"
        )
    mean, deviation = known.mean(0), known.std(0)
    scale = np.maximum(deviation, max(LEAST_DEVIATION * float(np.median(deviation)), 1e-12))
    standard = (known - mean) / scale
    d, n = features.shape[1], len(known)
    k = min(d if d <= MOST_WHOLE else MOST_DIRECTIONS, d, n - 1, max(1, MOST_NUMBERS // d))
    _, singular, rows = np.linalg.svd(standard, full_matrices=False)
    variances = singular**2 / n
    rest = max((float((standard**2).sum()) / n - float(variances[:k].sum())) / max(d - k, 1), LEAST_VARIANCE)
    told = {"origin": "public", "images": n, "false_alarms": false_alarms}
    told |= {"chosen_on": f"on {len(new)} public images held out", "threshold": 1.0}
    arrays = (mean, scale, np.maximum(variances[:k], rest), rest if k < d else 1.0, rows[:k])
    found = FeatureStatistics.pack(*arrays, **told)  # type: ignore[arg-type]  # packed as float32
    threshold = float(np.sort(found._distances(new))[rank - 1])
    return found.model_copy(update={"threshold": max(threshold, _LEAST)})


def of_moments(moments: NoisyMoments, false_alarms: float = FALSE_ALARMS) -> FeatureStatistics | None:
    """Return statistics of moments that clinics released with noise; None where the noise leaves nothing of them.

    No variance is taken to be less than the edge of what the noise does to the spectrum of d features, 2 s √d for a
    deviation of s off the diagonal (`melfed.common.moments.solvers`), over the number of units, nor than `NOISED_FLOOR`
    of the mean. The threshold is χ²'s: nobody's features are looked at, so how often it is a false alarm at these
    clinics was not measured.
    """
    from scipy import stats

    d = moments.features
    units = sum(moments.count(name) for name in CLASSES)
    if units <= 10 * max(1.0, moments.noise_std * math.sqrt(2)):
        return None
    mean = sum((moments.total(name) for name in CLASSES), np.zeros(d)) / units
    second = sum((moments.second(name) for name in CLASSES), np.zeros((d, d))) / units
    variances, columns = np.linalg.eigh(second - np.outer(mean, mean))
    least = max(2 * moments.noise_std * math.sqrt(d) / units, NOISED_FLOOR * float(variances.mean()), _LEAST)
    told = {"origin": "noised", "images": None, "false_alarms": false_alarms}
    told |= {"chosen_on": "by theory (χ²), not measured"}
    told |= {"threshold": math.sqrt(float(stats.chi2.ppf(1 - false_alarms, d)) / d)}
    arrays = (mean, np.ones(d), np.maximum(variances, least), 1.0, columns.T)
    return FeatureStatistics.pack(*arrays, **told)  # type: ignore[arg-type]  # packed as float32
