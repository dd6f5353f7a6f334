"""How one clinic's images are divided into train, validation and test: the same at a real clinic and at a virtual one.

What is dealt out are whole groups (`common.data.records.group_ids`: a patient, else a lesion, else a duplicate group,
else a single image), so that no group is in two parts. Everything follows from the seed, the clinic's name, the names
of its images and their groups: not from the order of the table's rows, and not from other clinics.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.data.records import LesionRecord, group_ids
from common.protocol import PartitionSpec
from common.seeds import seed_for


@dataclass(frozen=True)
class ClinicSplit:
    """One clinic's images, as indices into the records that were divided."""

    name: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Images that stay together: `indices` into the records, in the order of the images' names.

    `key` is the name of the first of them, and `source` that of most of them.
    """

    key: str
    indices: tuple[int, ...]
    positive: bool
    source: str


def collect_groups(records: Sequence[LesionRecord]) -> list[Group]:
    """Collect records into groups, ordered by the first image of each, whatever the order of the records."""
    ids = group_ids(records)
    members: dict[str, list[int]] = {}
    for index in sorted(range(len(records)), key=lambda index: records[index].image):
        members.setdefault(ids[index], []).append(index)
    groups = []
    for indices in members.values():
        images = Counter(records[index].source for index in indices)
        groups.append(
            Group(
                key=records[indices[0]].image,
                indices=tuple(indices),
                positive=any(records[index].target for index in indices),
                source=min(images, key=lambda source: (-images[source], source)),
            )
        )
    return groups


def split_clinic(name: str, groups: Sequence[Group], spec: PartitionSpec, seed: int) -> ClinicSplit:
    """Divide one clinic's groups into its parts.

    The fractions `validation` and `test` are fractions of its groups, with and without a positive image apart; with
    three or more groups of either kind, every part that is asked for receives one of that kind.

    Args:
        name: of the clinic; two clinics with the same images are divided differently.
        groups: as `collect_groups` orders them.
        spec: the fractions.
        seed: for a study, `seed_for(study.seed, "partition")`.
    """
    generator = np.random.default_rng(seed_for(seed, "partition", "clinic", name))
    train: list[Group] = []
    validation: list[Group] = []
    test: list[Group] = []
    for label in (True, False):
        alike = [group for group in groups if group.positive == label]
        shuffled = [alike[place] for place in generator.permutation(len(alike))]
        for_test, for_validation = _part_sizes(len(alike), spec)
        test += shuffled[:for_test]
        validation += shuffled[for_test : for_test + for_validation]
        train += shuffled[for_test + for_validation :]
    return ClinicSplit(name, _indices(train), _indices(validation), _indices(test))


def objection(split: ClinicSplit, records: Sequence[LesionRecord], spec: PartitionSpec) -> str | None:
    """Say what a clinic lacks to take part, with its numbers; None where it has enough."""
    images = len(split.train)
    positive = sum(records[index].target for index in split.train)
    has = f"clinic {split.name!r} would have {images} training images, {positive} of them positive"
    if images < spec.minimum_images:
        return f"{has}, and partition.minimum_images is {spec.minimum_images}"
    if positive in (0, images):
        return f"{has}, and a clinic needs both classes"
    for part, fraction, indices in (
        ("validation", spec.validation, split.validation),
        ("test", spec.test, split.test),
    ):
        if fraction > 0 and not indices:
            return f"{has}, and none are left for {part}"
    return None


def _part_sizes(groups: int, spec: PartitionSpec) -> tuple[int, int]:
    """Of so many groups of one kind, how many go to test and to validation.

    The fractions are rounded to whole groups, but at least one stays for training, and test comes before validation
    where there are too few for all.
    """
    reserved = 1 + (spec.validation > 0 and groups >= 3)
    test = min(max(round(spec.test * groups), int(spec.test > 0)), max(groups - reserved, 0))
    rest = max(groups - 1 - test, 0)
    validation = min(max(round(spec.validation * groups), int(spec.validation > 0)), rest)
    return test, validation


def _indices(groups: Iterable[Group]) -> tuple[int, ...]:
    return tuple(index for group in sorted(groups, key=lambda group: group.key) for index in group.indices)
