"""What a clinic says of its data: numbers of images, or in a private study of units with noise, and their origin."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from melfed.common.metrics.noisy_histogram import REACH
from melfed.common.study.count_noise import unit_parts
from melfed.common.study.protocol import Section, StudyProtocol
from melfed.server.runs.summary import Counted

PARTS = ("train", "validation", "test")
IN_IMAGES = ("images", "positives", "groups")
IN_UNITS = ("units", "positive_units")


class Counts(Section):
    """One clinic's counts. They tell of a part either `IN_IMAGES`, exactly, or `IN_UNITS`.

    A private study's clinic adds noise to two numbers of each part, that of its positive units and that of the others,
    and tells the sum as units. Without noise it has declared public figures, or the study itself has no noise.
    """

    numbers: dict[str, int] = Field(description="by <part>_images, <part>_units, and so on")
    noise: float = Field(0.0, ge=0, description="standard deviation of the noise on each of the two numbers; 0: none")
    synthetic: bool = Field(False, description="whether its data folder says that its pictures are rendered")

    def of(self, part: str, what: str) -> int:
        """Return a number of a part, such as its images; 0 where the clinic does not tell it."""
        return self.numbers.get(f"{part}_{what}", 0)

    def weight(self, study: StudyProtocol) -> int:
        """Return the clinic's weight in the mean: training images, or in a private study training units, 1 at least."""
        return self.of("train", "images") if study.privacy is None else max(self.of("train", "units"), 1)

    def most_units(self, part: str) -> float:
        """Return how many units a part may have, by what the clinic tells.

        With noise: so many that an honest clinic has more once in 10^12 times (`REACH` is 7 standard deviations of the
        sum of two numbers, and rounding adds at most 1). Figures that a clinic declares for all parts together are as
        rough as the clinic likes; no part has more units than all of them.
        """
        if self.noise:
            return self.of(part, "units") + REACH * self.noise + 1
        return sum(self.of(other, "units") for other in PARTS)


def counted(study: StudyProtocol, clinics: Iterable[Counts]) -> Counted:
    """Return how the clinics' numbers came about, all of them together.

    Args:
        study: says which parts are told in units.
        clinics: whose numbers are added up.
    """
    if study.privacy is None:
        return Counted()
    numbers = [counts.noise for counts in clinics]
    # Of each part one number of positive units, and one of the others.
    melanomas = math.sqrt(len(unit_parts(study)) * math.fsum(noise**2 for noise in numbers))
    return Counted(
        how="noised" if melanomas else "unnoised",
        parts="all" if study.privacy.evaluation == "noised" else "training",
        patients_noise=math.sqrt(2) * melanomas,
        melanomas_noise=melanomas,
    )


@dataclass(frozen=True)
class Totals:
    """What clinics have together, as far as they tell.

    In a private study `patients` and `melanomas` are units and positive units of the parts that are told so, and nobody
    tells a number of images.
    """

    patients: int
    images: int | None
    melanomas: int


def totals(study: StudyProtocol, clinics: Sequence[Counts]) -> Totals:
    """Return the sums of what clinics tell."""

    def total(parts: Iterable[str], what: str) -> int:
        return sum(counts.of(part, what) for counts in clinics for part in parts)

    if study.privacy is None:
        return Totals(total(PARTS, "groups"), total(PARTS, "images"), total(PARTS, "positives"))
    parts = unit_parts(study)
    return Totals(total(parts, "units"), None, total(parts, "positive_units"))
