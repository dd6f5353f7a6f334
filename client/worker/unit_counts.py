"""How many units (patients, lesions, images) a clinic of a private study says it has: noised once a run, or declared.

Of each part one number of units with a positive image, and one of the others. Adding or removing a unit changes one of
these numbers by 1, so the whole vector has sensitivity 1. A number of images has none that is bounded: a patient can
have any number of images. That is why none leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.units import Unit, privacy_units
from melfed.common.data.records import LesionRecord
from melfed.common.study.protocol import PartitionSpec


@dataclass(frozen=True)
class UnitCounts:
    """What a clinic tells a run of its numbers of units.

    Attributes:
        parts: which parts are counted.
        values: of each part the units that are positive, then the others; with noise they may be negative.
        noise: standard deviation of the noise on each value; 0: none.
    """

    parts: tuple[str, ...]
    values: tuple[int, ...]
    noise: float

    def units(self, part: str) -> int:
        """Return the number of units of a part, at least 0."""
        return sum(self._pair(part))

    def told(self) -> dict[str, int]:
        """Return `<part>_units` and `<part>_positive_units` of each part."""
        return {
            name: count
            for part in self.parts
            for name, count in ((f"{part}_units", self.units(part)), (f"{part}_positive_units", self._pair(part)[0]))
        }

    def _pair(self, part: str) -> tuple[int, int]:
        place = 2 * self.parts.index(part)
        return max(self.values[place], 0), max(self.values[place + 1], 0)


def noised(
    parts: Mapping[str, Sequence[LesionRecord]], unit: Unit, noise_multiplier: float, noise: NoiseSource
) -> tuple[int, ...]:
    """Return the numbers of units with noise: one Gaussian mechanism of this noise multiplier.

    Args:
        parts: the images of each part, every one with its unit.
        unit: what is counted.
        noise_multiplier: σ, the noise over the sensitivity of 1.
        noise: where it comes from.

    Returns:
        Of each part the units that are positive, then the others.
    """
    exact: list[int] = []
    for records in parts.values():
        names = privacy_units(records, unit)
        positive = {name for name, record in zip(names, records, strict=True) if record.target}
        exact += [len(positive), len(set(names) - positive)]
    drawn = noise.integers_gaussian((len(exact),), noise_multiplier)
    return tuple(count + int(number) for count, number in zip(exact, drawn, strict=True))


def declared(units: int, positive_units: int, parts: Sequence[str], spec: PartitionSpec) -> UnitCounts:
    """Return the numbers that follow from public figures: each part has its fraction of them.

    Args:
        units: how many units the clinic says it has, all parts together.
        positive_units: how many of them are positive.
        parts: which parts are counted.
        spec: the fractions.
    """
    fraction = {"validation": spec.validation, "test": spec.test, "train": 1 - spec.validation - spec.test}
    values: list[int] = []
    for part in parts:
        values += [round(fraction[part] * positive_units), round(fraction[part] * (units - positive_units))]
    return UnitCounts(tuple(parts), tuple(values), 0.0)
