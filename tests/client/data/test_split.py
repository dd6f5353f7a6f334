"""A clinic's division into parts: the same wherever it is made, of whole groups, each by its own name alone."""

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.data.split import ClinicSplit, objection, simulation_key, split_clinic
from melfed.client.privacy.units import Unit, unit_of
from melfed.common.data.records import LesionRecord, group_ids
from melfed.common.errors import DataError
from melfed.common.study.protocol import PartitionSpec
from melfed.simulations.partition.partition import partition

KEY = b"k" * 32
PARTS = ("train", "validation", "test")


def record(image: str, **values: Any) -> LesionRecord:
    unknown = dict.fromkeys(("diagnosis", "patient_id", "lesion_id", "dup_group", "age", "sex", "site"))
    return LesionRecord(**{"image": image, "target": 0, "source": "north", **unknown, **values})


@st.composite
def tables(draw: st.DrawFn) -> list[LesionRecord]:
    """Patients, lesions and duplicates over three sources, some across them, over single images of both classes."""
    sources = ["east", "north", "south"]
    rows = [record(f"{s}/{n:02d}.jpg", source=s, target=n % 3 == 0) for s in sources for n in range(15)]
    for number in range(draw(st.integers(0, 25))):
        known = draw(st.sampled_from(["patient_id", "lesion_id", "dup_group"]))
        name = f"{known} {draw(st.integers(0, 4))}"
        source, target = draw(st.sampled_from(sources)), draw(st.integers(0, 1))
        rows.append(record(f"x{number}.jpg", source=source, target=target, **{known: name}))
    return draw(st.permutations(rows))


def named(records: Sequence[LesionRecord], split: ClinicSplit) -> dict[str, list[str]]:
    return {part: [records[index].image for index in getattr(split, part)] for part in PARTS}


units = st.sampled_from([None, "patient", "lesion", "image"])


def virtual(records: list[LesionRecord], spec: PartitionSpec, seed: int, unit: Unit | None) -> tuple[ClinicSplit, ...]:
    """The virtual clinics; none where one has too few images for a study without privacy."""
    try:
        return partition(records, spec, seed, unit)
    except DataError as error:
        if "partition.minimum_images is 2" not in str(error):
            raise
        return ()


@given(
    records=tables(),
    fractions=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    clinics=st.sampled_from([None, 2]),
    seed=st.integers(0, 2**40),
    unit=units,
    shuffle=st.randoms(),
)
@settings(deadline=None, max_examples=40)
def test_a_clinic_alone_divides_as_its_virtual_clinic(
    records: list[LesionRecord],
    fractions: tuple[float, float],
    clinics: int | None,
    seed: int,
    unit: Unit | None,
    shuffle: random.Random,
) -> None:
    spec = PartitionSpec(clinics=clinics, validation=fractions[0], test=fractions[1], minimum_images=2)
    splits = virtual(records, spec, seed, unit)
    assert splits or unit is None
    for split in splits:
        own = [records[index] for part in PARTS for index in getattr(split, part)]
        shuffle.shuffle(own)
        alone = split_clinic(split.name, own, spec, simulation_key(seed), unit)
        assert named(own, alone) == named(records, split)


@given(records=tables(), key=st.binary(min_size=32, max_size=32))
@settings(deadline=None, max_examples=20)
def test_every_image_is_in_one_part_and_every_group_too(records: list[LesionRecord], key: bytes) -> None:
    split = split_clinic("north", records, PartitionSpec(), key)
    indices = [index for part in PARTS for index in getattr(split, part)]
    assert sorted(indices) == list(range(len(records)))
    ids = group_ids(records)
    groups = [{ids[index] for index in getattr(split, part)} for part in PARTS]
    assert sum(map(len, groups)) == len(set.union(*groups))


@given(records=tables(), unit=st.sampled_from(["patient", "lesion", "image"]), data=st.data())
@settings(deadline=None, max_examples=100)
def test_one_unit_more_moves_no_other(records: list[LesionRecord], unit: Unit, data: st.DataObject) -> None:
    names = sorted({name for record in records if (name := unit_of(record, unit)) is not None})
    if not names:
        return
    gone = data.draw(st.sampled_from(names))
    neighbour = [record for record in records if unit_of(record, unit) != gone]
    with_it, without = (split_clinic("north", rows, PartitionSpec(), KEY, unit) for rows in (records, neighbour))
    theirs = {record.image for record in records if unit_of(record, unit) == gone}
    here, there = named(records, with_it), named(neighbour, without)
    assert {part: [image for image in here[part] if image not in theirs] for part in PARTS} == there
    assert sum(bool(theirs & set(here[part])) for part in PARTS) == 1


def test_images_without_a_unit_are_left_out() -> None:
    rows = [record("a.jpg", patient_id="p"), record("b.jpg"), record("c.jpg", lesion_id="x")]
    for unit, left in (("patient", {"a.jpg"}), ("lesion", {"a.jpg", "c.jpg"}), ("image", {"a.jpg", "b.jpg", "c.jpg"})):
        split = split_clinic("north", rows, PartitionSpec(), KEY, unit)  # type: ignore[arg-type]
        assert {rows[index].image for part in PARTS for index in getattr(split, part)} == left


def test_name_and_key_decide() -> None:
    rows = [record(f"{n}.jpg", target=n % 2) for n in range(40)]
    splits = [
        split_clinic(name, rows, PartitionSpec(), key)
        for name, key in (("a", KEY), ("a", KEY[1:] + b"x"), ("b", KEY), ("a", KEY))
    ]
    assert splits[0] == splits[3]
    assert len({split.train for split in splits}) == 3


def test_the_fractions_are_probabilities() -> None:
    """Of 20,000 groups; each bound is 6 standard deviations."""
    rows = [record(f"{n}.jpg") for n in range(20_000)]
    split = split_clinic("north", rows, PartitionSpec(validation=0.1, test=0.2), KEY)
    for indices, share in ((split.validation, 0.1), (split.test, 0.2), (split.train, 0.7)):
        assert abs(len(indices) - 20_000 * share) < 6 * (20_000 * share * (1 - share)) ** 0.5


def test_an_objection_names_what_is_missing() -> None:
    few = split_clinic("north", [record(f"{n}.jpg") for n in range(10)], PartitionSpec(), KEY)
    assert "partition.minimum_images is 20" in str(objection(few, PartitionSpec()))
    assert objection(few, PartitionSpec(minimum_images=2)) is None
