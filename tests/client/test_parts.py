"""A clinic's division into parts: the same wherever it is made, and of whole groups."""

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from client.parts import ClinicSplit, collect_groups, objection, split_clinic
from common.data.records import LesionRecord, group_ids
from common.protocol import PartitionSpec
from simulations.partition import partition

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


@given(
    records=tables(),
    fractions=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    clinics=st.sampled_from([None, 2]),
    seed=st.integers(0, 2**40),
    shuffle=st.randoms(),
)
@settings(deadline=None, max_examples=40)
def test_a_clinic_alone_divides_as_its_virtual_clinic(
    records: list[LesionRecord],
    fractions: tuple[float, float],
    clinics: int | None,
    seed: int,
    shuffle: random.Random,
) -> None:
    spec = PartitionSpec(clinics=clinics, validation=fractions[0], test=fractions[1], minimum_images=2)
    for split in partition(records, spec, seed):
        own = [records[index] for part in PARTS for index in getattr(split, part)]
        shuffle.shuffle(own)
        alone = split_clinic(split.name, collect_groups(own), spec, seed)
        assert named(own, alone) == named(records, split)
        assert objection(alone, own, spec) is None


@given(records=tables(), seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=20)
def test_every_image_is_in_one_part_and_every_group_too(records: list[LesionRecord], seed: int) -> None:
    split = split_clinic("north", collect_groups(records), PartitionSpec(), seed)
    indices = [index for part in PARTS for index in getattr(split, part)]
    assert sorted(indices) == list(range(len(records)))
    ids = group_ids(records)
    groups = [{ids[index] for index in getattr(split, part)} for part in PARTS]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_name_and_seed_decide() -> None:
    groups = collect_groups([record(f"{n}.jpg", target=n % 2) for n in range(40)])
    splits = [
        split_clinic(name, groups, PartitionSpec(), seed) for name, seed in (("a", 1), ("a", 2), ("b", 1), ("a", 1))
    ]
    assert splits[0] == splits[3]
    assert len({split.train for split in splits}) == 3


def test_an_objection_names_what_is_missing() -> None:
    few = [record(f"{n}.jpg", target=n % 2) for n in range(10)]
    one_class = [record(f"{n}.jpg") for n in range(40)]
    for records, said in ((few, "partition.minimum_images is 20"), (one_class, "needs both classes")):
        split = split_clinic("north", collect_groups(records), PartitionSpec(), 0)
        assert said in str(objection(split, records, PartitionSpec()))
    spec = PartitionSpec(minimum_images=2)
    bare = ClinicSplit("north", train=(0, 1, 2), validation=(3,), test=())
    assert "none are left for test" in str(objection(bare, few, spec))
