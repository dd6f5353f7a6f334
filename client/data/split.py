"""How one clinic's images are divided into train, validation and test: the same at a real clinic and at a virtual one.

What is divided are whole groups: in a private study its units (`melfed.client.privacy.units`), else connected groups
(`melfed.common.data.records.group_ids`). Which part a group is in follows from a keyed hash of its own name, and from
nothing
else: whoever joins or leaves the clinic moves nobody. So the parts of two clinics that differ by one patient differ by
that patient's images alone, which is what the privacy accounting takes for granted. No rule looks at how many there
are: a part may be empty.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from melfed.client.privacy.units import Unit, units_of
from melfed.common.data.records import LesionRecord, group_ids
from melfed.common.study.protocol import PartitionSpec

Part = Literal["train", "validation", "test"]


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


def simulation_key(seed: int) -> bytes:
    """Return what takes the place of a clinic's secret in a simulation, 32 bytes: it follows from the study's seed.

    Args:
        seed: `melfed.common.seeds.seed_for(study.seed, "partition")`.
    """
    return hashlib.sha256(f"parts of a simulation\x1f{seed}".encode()).digest()


def part_of(group: str, clinic: str, spec: PartitionSpec, key: bytes) -> Part:
    """Return the part that a group is in: a function of these arguments alone.

    HMAC-SHA-256 of the names gives a number, uniform in [0, 1): below `spec.test` it is the test part, below
    `spec.test + spec.validation` the validation part, else training.

    >>> key = simulation_key(seed=0)
    >>> spec = PartitionSpec(validation=0.1, test=0.2)
    >>> parts = [part_of(f"patient:{number}", "north", spec, key) for number in range(1000)]
    >>> [(part, parts.count(part)) for part in ("train", "validation", "test")]
    [('train', 727), ('validation', 96), ('test', 177)]
    """
    digest = hmac.digest(key, f"part\x1f{clinic}\x1f{group}".encode(), "sha256")
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < spec.test:
        return "test"
    return "validation" if place < spec.test + spec.validation else "train"


def split_clinic(
    name: str,
    records: Sequence[LesionRecord],
    spec: PartitionSpec,
    key: bytes,
    unit: Unit | None = None,
    own: Sequence[int] | None = None,
) -> ClinicSplit:
    """Divide one clinic's images into its parts.

    Args:
        name: of the clinic; two clinics with the same images are divided differently.
        records: of the images.
        spec: `validation` and `test`: the probability that a group is in each.
        key: the secret that the clinic holds, or `simulation_key`.
        unit: what a private study protects, divided each on its own, images without it left out; None: connected
            groups, so that no known duplicate is on both sides.
        own: which of the records are the clinic's; None: all.

    Returns:
        Indices into `records`, by the order of the images' names; every one of the clinic's at most once.
    """
    indices = sorted(range(len(records)) if own is None else own, key=lambda index: records[index].image)
    mine = [records[index] for index in indices]
    names = group_ids(mine) if unit is None else units_of(mine, unit)
    parts: dict[Part, list[int]] = {"train": [], "validation": [], "test": []}
    known: dict[str, Part] = {}
    for index, group in zip(indices, names, strict=True):
        if group is None:
            continue
        if group not in known:
            known[group] = part_of(group, name, spec, key)
        parts[known[group]].append(index)
    return ClinicSplit(name, tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def objection(split: ClinicSplit, spec: PartitionSpec) -> str | None:
    """Say why a clinic has too little for a study without privacy; None where it has enough, or none is needed."""
    if len(split.train) >= spec.minimum_images:
        return None
    return (
        f"clinic {split.name!r} would have {len(split.train)} training images, and partition.minimum_images is "
        f"{spec.minimum_images}"
    )
