"""Virtual clinics: a table of lesion records divided among clinics, and each clinic's share into its parts.

Whatever the scheme, what is dealt out are whole groups (`melfed.client.data.split`), so that no group crosses two
clinics. How groups are dealt is in `melfed.simulations.partition.schemes`.

Everything follows from the seed, the records and the scheme. The order of the table's rows has no influence. Each
clinic's share is then divided as a real clinic divides its images.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from melfed.client.data.split import ClinicSplit, Group, collect_groups, objection, simulation_key, split_clinic
from melfed.client.privacy.units import Unit
from melfed.common.data.records import LesionRecord, group_ids
from melfed.common.errors import DataError, StudyError
from melfed.common.partition import SCHEMES
from melfed.common.partition.scheme import Dealt
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import PartitionSpec

__all__ = ["ClinicSplit", "PartSummary", "PartitionedClinic", "describe", "partition"]

DEFAULT_CLINICS = 4
"""Number of clinics where the study names none and they do not follow from the sources."""

DRAWS = 100
"""How often an unusable random division is drawn anew before it is refused."""


class PartSummary(BaseModel):
    """How much there is in one part of a clinic; a group is what no split takes apart, at best a patient."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: int
    images: int
    melanomas: int


class PartitionedClinic(BaseModel):
    """How much there is at one clinic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    train: PartSummary
    validation: PartSummary
    test: PartSummary


def partition(
    records: Sequence[LesionRecord], spec: PartitionSpec, seed: int, unit: Unit | None = None
) -> tuple[ClinicSplit, ...]:
    """Divide records among clinics, and each clinic's share into train, validation and test.

    - `source`: every source is a clinic, or the `clinics` largest are. A group with images of several sources belongs
      to the one with most of them.
    - all others: `melfed.simulations.partition.schemes`.

    Random divisions that leave a clinic with too little are drawn again, at most `DRAWS` times in all. How little that
    is the study says (`minimum_images`); a clinic may have one class alone. Within a clinic
    `melfed.client.data.split.split_clinic` divides.

    Args:
        records: the usable images; their names must be unique.
        spec: the scheme, the number of clinics, and the fractions.
        seed: at least 0; the same seed and records give the same division.
        unit: what a private study protects; None: it is not private.

    Returns:
        The clinics, ordered by name for `source`, else `clinic_1`, `clinic_2`, and so on.

    Raises:
        StudyError: more clinics are asked for than there are sources, or the classes do not go into the clinics.
        DataError: a clinic would have too few images for a study without privacy. In a private one nothing hangs on
            how many there are.

    >>> from functools import partial
    >>> record = partial(LesionRecord, lesion_id=None, dup_group=None, age=None, sex=None, site=None, source="Vienna")
    >>> records = [record(f"{n:03}.jpg", int(n % 4 == 0), None, patient_id=f"P{n // 2}") for n in range(400)]
    >>> clinics = partition(records, PartitionSpec(by="size_zipf", clinics=3, alpha=1.0), seed=0)
    >>> [(clinic.name, len(clinic.train), len(clinic.test)) for clinic in clinics]
    [('clinic_1', 160, 46), ('clinic_2', 70, 34), ('clinic_3', 52, 10)]
    """
    if not records:
        raise DataError(
            "no usable image is left to divide among clinics: see data.sources and the list of unreadable files"
        )
    groups = collect_groups(records)
    if spec.by == "source":
        outcome = _split_all(_by_source(groups, spec), records, spec, seed, unit)
        if isinstance(outcome, str):
            raise DataError(
                f"{outcome}: leave that source out (data.sources: ['!NAME']), lower partition.minimum_images, "
                "or use partition.by iid"
            )
        return outcome
    clinics = spec.clinics or DEFAULT_CLINICS
    dealt = Dealt(
        np.array([group.positive for group in groups], dtype=np.bool_),
        [class_of([records[index] for index in group.indices]) for group in groups],
    )
    generator = np.random.default_rng(seed_for(seed, "partition", spec.by))
    outcome, most = "", 0
    for _ in range(DRAWS):
        owners = SCHEMES[spec.by](dealt, clinics, spec, generator)
        divided = _by_owner(groups, owners, clinics)
        outcome = _split_all(divided, records, spec, seed, unit)
        if not isinstance(outcome, str):
            return outcome
        most = max(most, _fewest(divided, records, spec, seed))
    fewer = f"ask for fewer clinics (partition.clinics, now {clinics})"
    if most:
        fewer += f" or lower partition.minimum_images ({most} would do)"
    remedy = fewer
    if spec.by.endswith("_dirichlet"):
        remedy = f"raise partition.alpha (now {spec.alpha:g}), {fewer}"
    elif spec.by == "size_zipf":
        remedy = f"lower partition.alpha (now {spec.alpha:g}), {fewer}"
    raise DataError(f"{outcome}, in the last of {DRAWS} draws: {remedy}")


def describe(records: Sequence[LesionRecord], splits: Iterable[ClinicSplit]) -> tuple[PartitionedClinic, ...]:
    """Count groups, images and melanomas in every part of every clinic; `splits` index into `records`."""
    ids = group_ids(records)

    def count(indices: tuple[int, ...]) -> PartSummary:
        return PartSummary(
            groups=len({ids[index] for index in indices}),
            images=len(indices),
            melanomas=sum(records[index].target for index in indices),
        )

    return tuple(
        PartitionedClinic(
            name=split.name,
            train=count(split.train),
            validation=count(split.validation),
            test=count(split.test),
        )
        for split in splits
    )


def _by_source(groups: Sequence[Group], spec: PartitionSpec) -> dict[str, list[Group]]:
    members: dict[str, list[Group]] = {}
    for group in groups:
        members.setdefault(group.source, []).append(group)
    wanted = spec.clinics or max(len(members), 2)
    if wanted > len(members):
        there = f"{len(members)} source(s) ({', '.join(sorted(members))})" if members else "no images"
        raise StudyError(
            f"{wanted} clinics asked of {there}: with partition.by source a clinic needs a source of its own; "
            "use partition.by iid or label_dirichlet, or lower partition.clinics"
        )
    images = {name: sum(len(group.indices) for group in own) for name, own in members.items()}
    largest = sorted(members, key=lambda name: (-images[name], name))[:wanted]
    return {name: members[name] for name in sorted(largest)}


def _by_owner(groups: Sequence[Group], owners: NDArray[np.intp], clinics: int) -> dict[str, list[Group]]:
    members: dict[str, list[Group]] = {f"clinic_{number}": [] for number in range(1, clinics + 1)}
    for group, owner in zip(groups, owners, strict=True):
        members[f"clinic_{owner + 1}"].append(group)
    return members


def _fewest(
    clinics: Mapping[str, Sequence[Group]], records: Sequence[LesionRecord], spec: PartitionSpec, seed: int
) -> int:
    """Return how many training images the clinic with the fewest would have."""
    splits = _split_all(clinics, records, spec.model_copy(update={"minimum_images": 0}), seed, None)
    return min(len(split.train) for split in splits if isinstance(split, ClinicSplit))


def _split_all(
    clinics: Mapping[str, Sequence[Group]],
    records: Sequence[LesionRecord],
    spec: PartitionSpec,
    seed: int,
    unit: Unit | None,
) -> tuple[ClinicSplit, ...] | str:
    """Split every clinic, or say what the first one that cannot take part lacks."""
    splits, key = [], simulation_key(seed)
    for name, groups in clinics.items():
        own = [index for group in groups for index in group.indices]
        split = split_clinic(name, records, spec, key, unit, own)
        if unit is None and (reason := objection(split, spec)):
            return reason
        splits.append(split)
    return tuple(splits)


def class_of(records: Sequence[LesionRecord]) -> str:
    """Return a group's class: the diagnosis of most of its images, of its positive ones where it has any.

    Of several as frequent it is the first by name. An image whose diagnosis is not known counts as "positive" or
    "negative".
    """
    kept = [record for record in records if record.target] or records
    counts = Counter(record.diagnosis or ("positive" if record.target else "negative") for record in kept)
    return min(counts, key=lambda name: (-counts[name], name))
