"""Partitions: whole groups, every image once, the same from the same seed, refused with numbers."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from melfed.common.data.records import LesionRecord, group_ids, read_table
from melfed.common.errors import DataError, StudyError
from melfed.common.partition import SCHEMES as REGISTERED
from melfed.common.study.protocol import PartitionSpec
from melfed.simulations.partition import partition as module
from melfed.simulations.partition.partition import ClinicSplit, PartitionedClinic, class_of, describe, partition

PARTS = ("train", "validation", "test")
SIZES = ("size_zipf", "size_linear", "size_square", "size_exponential")
SCHEMES = ("source", *sorted(REGISTERED))


def record(image: str, **values: Any) -> LesionRecord:
    fields: dict[str, Any] = {
        "target": 0,
        "diagnosis": None,
        "patient_id": None,
        "lesion_id": None,
        "dup_group": None,
        "age": None,
        "sex": None,
        "site": None,
        "source": "north",
    }
    return LesionRecord(image=image, **(fields | values))


def single_images(source: str, negative: int, positive: int) -> list[LesionRecord]:
    targets = [0] * negative + [1] * positive
    return [record(f"{source}_{number:04d}.jpg", target=t, source=source) for number, t in enumerate(targets)]


def spec(by: str, **values: Any) -> PartitionSpec:
    needed = {"classes": 1} if by == "pathological" else {}
    return PartitionSpec(by=by, **({"minimum_images": 2} | needed | values))


def places(splits: Sequence[ClinicSplit]) -> dict[int, tuple[str, str]]:
    """Where every index lies; an index in two places is an error."""
    found: dict[int, tuple[str, str]] = {}
    for split in splits:
        for part in PARTS:
            for index in getattr(split, part):
                assert index not in found
                found[index] = (split.name, part)
    return found


def named(records: Sequence[LesionRecord], splits: Sequence[ClinicSplit]) -> list[tuple[str, list[list[str]]]]:
    return [(s.name, [[records[index].image for index in getattr(s, part)] for part in PARTS]) for s in splits]


def assert_nothing_crosses(records: Sequence[LesionRecord], splits: Sequence[ClinicSplit]) -> None:
    """No patient, lesion or duplicate group lies in two places, or partly outside of all."""
    found = places(splits)
    for field in ("patient_id", "lesion_id", "dup_group"):
        seen: defaultdict[str, set[tuple[str, str] | None]] = defaultdict(set)
        for index, row in enumerate(records):
            if (value := getattr(row, field)) is not None:
                seen[value].add(found.get(index))
        assert all(len(where) == 1 for where in seen.values()), field


@st.composite
def tables(draw: st.DrawFn) -> list[LesionRecord]:
    """Patients with several lesions over several sources, lesions without patients, duplicates between any of them.

    Beneath them lies a layer of single images of both classes in every source, so that most tables can be divided.
    """
    sources = ["east", "north", "south"][: draw(st.integers(2, 3))]
    records = [row for source in sources for row in single_images(source, 12, 9)]
    for person in range(draw(st.integers(0, 15))):
        known = draw(st.booleans())
        for image in range(draw(st.integers(1, 5))):
            lesion = draw(st.none() | st.integers(0, 2))
            records.append(
                record(
                    f"p{person}_{image}.jpg",
                    target=draw(st.integers(0, 1)),
                    patient_id=f"patient {person}" if known else None,
                    lesion_id=None if lesion is None else f"lesion {person} {lesion}",
                    dup_group=draw(st.none() | st.none() | st.sampled_from(["d0", "d1", "d2"])),
                    source=draw(st.sampled_from(sources)),
                )
            )
    return draw(st.permutations(records))


@given(
    records=tables(),
    by=st.sampled_from(SCHEMES),
    alpha=st.sampled_from([0.5, 2.0, 100.0]),
    clinics=st.sampled_from([None, 2]),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=60)
def test_every_image_once_and_no_group_crosses(
    records: list[LesionRecord], by: str, alpha: float, clinics: int | None, seed: int
) -> None:
    chosen = spec(by, alpha=alpha, clinics=clinics)
    try:
        splits = partition(records, chosen, seed)
    except DataError:
        # A strongly skewed draw over so few groups; the refusals have tests of their own.
        assume(by in ("source", "iid", "pathological", "size_linear"))
        raise
    assert_nothing_crosses(records, splits)
    if clinics is None or by != "source":
        assert set(places(splits)) == set(range(len(records)))
    assert len(splits) == (clinics or (len({row.source for row in records}) if by == "source" else 4))


@given(records=tables(), by=st.sampled_from(SCHEMES), seed=st.integers(0, 2**40), shuffle=st.randoms())
@settings(deadline=None, max_examples=40)
def test_same_seed_same_division_whatever_the_order_of_rows(
    records: list[LesionRecord], by: str, seed: int, shuffle: random.Random
) -> None:
    chosen = spec(by, clinics=2, alpha=0.5 if by in SIZES else 5.0)
    first = partition(records, chosen, seed)
    assert partition(records, chosen, seed) == first
    other = records[:]
    shuffle.shuffle(other)
    assert named(other, partition(other, chosen, seed)) == named(records, first)


@pytest.mark.parametrize("by", SCHEMES)
def test_another_seed_another_division(by: str) -> None:
    records = single_images("east", 60, 20) + single_images("north", 60, 20)
    one, two = (partition(records, spec(by, clinics=2, alpha=0.5 if by in SIZES else 10.0), seed) for seed in (1, 2))
    assert named(records, one) != named(records, two)


def test_a_clinic_is_divided_alike_whoever_else_takes_part() -> None:
    east, north, south = (single_images(name, 50, 20) for name in ("east", "north", "south"))
    records = east + north + south
    everyone = dict(named(records, partition(records, spec("source"), 3)))
    fewer = dict(named(south + east, partition(south + east, spec("source"), 3)))
    assert fewer == {name: everyone[name] for name in ("east", "south")}
    # Two clinics with the same pictures but other names do not share their shuffle.
    assert [image.replace("east", "south") for image in everyone["east"][2]] != everyone["south"][2]


def test_a_group_goes_to_the_source_with_most_of_its_images_and_ties_to_the_first_name() -> None:
    records = single_images("east", 20, 10) + single_images("north", 20, 10)
    records += [
        record(f"m{i}.jpg", patient_id="mostly north", source=s) for i, s in enumerate(("east", "north", "north"))
    ]
    records += [record(f"t{i}.jpg", patient_id="tied", source=s) for i, s in enumerate(("north", "east"))]
    found = places(partition(records, spec("source"), 0))
    owners = {
        patient: {found[i][0] for i, r in enumerate(records) if r.patient_id == patient}
        for patient in ("mostly north", "tied")
    }
    assert owners == {"mostly north": {"north"}, "tied": {"east"}}


def test_fewer_clinics_than_sources_are_the_largest_and_ties_go_by_name() -> None:
    sizes = {"a": 20, "b": 30, "c": 40, "d": 30}
    records = [row for name, size in sizes.items() for row in single_images(name, size, 10)]
    assert [split.name for split in partition(records, spec("source", clinics=2), 0)] == ["b", "c"]
    assert [split.name for split in partition(records, spec("source"), 0)] == ["a", "b", "c", "d"]


def test_iid_deals_sizes_that_differ_by_one_group() -> None:
    records = single_images("east", 100, 43)
    splits = partition(records, spec("iid"), 0)
    assert [split.name for split in splits] == ["clinic_1", "clinic_2", "clinic_3", "clinic_4"]
    sizes = [sum(len(getattr(split, part)) for part in PARTS) for split in splits]
    assert sorted(sizes) == [35, 36, 36, 36]


def shares(records: Sequence[LesionRecord], splits: Sequence[ClinicSplit]) -> tuple[list[float], list[float]]:
    """Each clinic's share of all images, and the positive fraction of its own."""
    sizes, positive = [], []
    for split in splits:
        own = [index for part in PARTS for index in getattr(split, part)]
        sizes.append(len(own) / len(records))
        positive.append(sum(records[index].target for index in own) / len(own))
    return sizes, positive


def test_small_alpha_skews_and_large_alpha_evens() -> None:
    records = single_images("east", 800, 400)

    def spread(by: str, alpha: float) -> tuple[float, float]:
        drawn = [shares(records, partition(records, spec(by, alpha=alpha), seed)) for seed in range(8)]
        return float(np.mean([np.ptp(s) for s, _ in drawn])), float(np.mean([np.ptp(p) for _, p in drawn]))

    label_sizes, label_skew = spread("label_dirichlet", 0.5)
    assert label_skew > 0.4
    assert max(spread("label_dirichlet", 1e5)) < 0.03
    size_skew, labels_stay = spread("size_dirichlet", 0.5)
    assert size_skew > 0.4
    assert spread("size_dirichlet", 1e5)[0] < 0.03
    # Size skew leaves each clinic about a third of positives, up to the chance of small clinics.
    assert labels_stay < 0.5 * label_skew
    assert label_sizes > 0.1


@pytest.mark.parametrize(
    ("by", "alpha", "size"),
    [
        ("size_zipf", 1.0, lambda rank: 1 / rank),
        ("size_zipf", 2.0, lambda rank: rank**-2.0),
        ("size_linear", 0.5, lambda rank: rank),
        ("size_square", 0.5, lambda rank: rank**2),
        ("size_exponential", 0.5, np.exp),
    ],
)
def test_sizes_follow_the_number_of_the_clinic(by: str, alpha: float, size: Callable[[np.ndarray], np.ndarray]) -> None:
    records = single_images("east", 700, 300)
    wanted = size(np.arange(1, 6, dtype=float))
    found, positive = shares(records, partition(records, spec(by, alpha=alpha, clinics=5, minimum_images=1), 0))
    # Borders between clinics are rounded to whole groups.
    assert found == pytest.approx(wanted / wanted.sum(), abs=1.001 / 1000)
    assert max(abs(share - 0.3) for share, of_all in zip(positive, found, strict=True) if of_all > 0.1) < 0.15


def test_exponential_sizes_of_many_clinics_are_numbers() -> None:
    records = single_images("east", 700, 300)
    with pytest.raises(DataError, match="'clinic_1' would have 0 training images"):
        partition(records, spec("size_exponential", clinics=1000), 0)


def diagnosed(**counts: int) -> list[LesionRecord]:
    return [
        record(f"{name}_{number}.jpg", diagnosis=name, target=int(name == "mel"))
        for name, count in counts.items()
        for number in range(count)
    ]


@given(
    counts=st.lists(st.integers(30, 80), min_size=2, max_size=6),
    clinics=st.integers(2, 6),
    each=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=60)
def test_pathological_clinics_have_so_many_classes_each_and_no_class_is_lost(
    counts: list[int], clinics: int, each: int, seed: int
) -> None:
    assume(each <= len(counts) <= clinics * each)
    names = ["mel", "nv", "bcc", "ak", "bkl", "df"][: len(counts)]
    records = diagnosed(**dict(zip(names, counts, strict=True)))
    splits = partition(records, spec("pathological", clinics=clinics, classes=each, minimum_images=1), seed)
    found = places(splits)
    assert len(found) == len(records)
    where = [Counter(found[i][0] for i, row in enumerate(records) if row.diagnosis == name) for name in names]
    assert Counter(clinic for has in where for clinic in has) == {split.name: each for split in splits}
    # A class is divided evenly, and classes are at as many clinics as others, or one more.
    assert all(max(has.values()) - min(has.values()) <= 1 for has in where)
    assert max(map(len, where)) - min(map(len, where)) <= 1


def test_pathological_classes_that_do_not_go_into_the_clinics_are_refused() -> None:
    records = diagnosed(mel=30, nv=30, bcc=30)
    with pytest.raises(StudyError, match=r"^partition.classes is 4, but there are 3 classes \(bcc, mel, nv\); ask for"):
        partition(records, spec("pathological", classes=4), 0)
    with pytest.raises(StudyError, match=r"^2 clinics of 1 classes have no room for 3 \(bcc, mel, nv\): raise"):
        partition(records, spec("pathological", clinics=2, classes=1), 0)


def test_the_class_of_a_group_is_the_diagnosis_of_most_of_its_positive_images_or_of_most() -> None:
    def row(diagnosis: str | None, target: int = 0) -> LesionRecord:
        return record("a.jpg", diagnosis=diagnosis, target=target)

    assert class_of([row("nv"), row("nv"), row("mel", 1)]) == "mel"
    assert class_of([row("nv"), row("bcc"), row("nv")]) == "nv"
    assert class_of([row("nv"), row("bcc")]) == "bcc"
    assert (class_of([row(None)]), class_of([row(None, 1)])) == ("negative", "positive")


def test_pathological_is_stated_with_its_classes_and_they_with_it() -> None:
    with pytest.raises(ValidationError, match="by pathological needs classes"):
        PartitionSpec(by="pathological")
    with pytest.raises(ValidationError, match="classes is of by pathological alone, and by is iid"):
        PartitionSpec(by="iid", classes=2)


def test_strongly_skewed_labels_are_drawn_and_a_clinic_may_have_one_class() -> None:
    """Six clinics at α = 0.1: nine in ten clinics of so few images lack a class; how few is the study's choice."""
    records = single_images("east", 450, 150)
    one_class = 0
    for seed in range(30):
        splits = partition(records, spec("label_dirichlet", alpha=0.1, clinics=6, minimum_images=1), seed)
        one_class += sum(len({records[index].target for index in split.train}) == 1 for split in splits)
    assert one_class > 60


def test_a_refusal_tells_the_minimum_that_would_do() -> None:
    records = single_images("east", 225, 75)
    chosen = spec("label_dirichlet", alpha=0.1, clinics=6, minimum_images=20)
    with pytest.raises(DataError) as refused:
        partition(records, chosen, 0)
    found = re.search(r"lower partition.minimum_images \((\d+) would do\)", str(refused.value))
    assert found
    assert 0 < int(found[1]) < 20
    splits = partition(records, chosen.model_copy(update={"minimum_images": int(found[1])}), 0)
    assert min(len(split.train) for split in splits) == int(found[1])


def test_unusable_draws_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    records = single_images("east", 120, 60)
    chosen = spec("label_dirichlet", alpha=0.5, minimum_images=15)
    for seed in range(10):
        splits = partition(records, chosen, seed)
        assert min(len(split.train) for split in splits) >= 15
    monkeypatch.setattr(module, "DRAWS", 1)
    refused = 0
    for seed in range(10):
        try:
            partition(records, chosen, seed)
        except DataError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("clinics", [None, 2])
def test_two_clinics_of_one_source_are_refused(clinics: int | None) -> None:
    with pytest.raises(StudyError, match=r"2 clinics asked of 1 source\(s\) \(east\).*iid or label_dirichlet"):
        partition(single_images("east", 50, 20), spec("source", clinics=clinics), 0)


def test_more_clinics_than_sources_are_refused_with_their_number() -> None:
    records = single_images("east", 50, 20) + single_images("north", 50, 20)
    with pytest.raises(StudyError, match=r"3 clinics asked of 2 source\(s\) \(east, north\)"):
        partition(records, spec("source", clinics=3), 0)


def test_a_small_source_is_refused_with_the_numbers() -> None:
    records = single_images("east", 50, 20) + single_images("north", 10, 5)
    with pytest.raises(
        DataError, match=r"'north' would have \d+ training images, and .*minimum_images is 20: .*sources"
    ):
        partition(records, spec("source", minimum_images=20), 0)


@pytest.mark.parametrize(("negative", "positive"), [(40, 0), (0, 40), (1, 0)])
def test_in_a_private_study_a_source_takes_part_whatever_it_has(negative: int, positive: int) -> None:
    """A rule that looks at how many there are would tell about patients."""
    records = single_images("east", 50, 20) + single_images("north", negative, positive)
    splits = partition(records, spec("source", minimum_images=20), 0, "image")
    assert [split.name for split in splits] == ["east", "north"]
    assert len(places(splits)) == len(records)


def test_random_divisions_that_cannot_be_are_refused_with_what_to_change() -> None:
    records = single_images("east", 40, 5)
    with pytest.raises(DataError, match=r"in the last of 100 draws: raise partition.alpha \(now 0.01\), ask for fewer"):
        partition(records, spec("label_dirichlet", alpha=0.01), 0)
    with pytest.raises(DataError, match=r"100 draws: ask for fewer clinics \(partition.clinics, now 200\)"):
        partition(records, spec("iid", clinics=200), 0)


@pytest.mark.parametrize("by", SCHEMES)
def test_no_records_are_refused(by: str) -> None:
    with pytest.raises(DataError, match="no usable image"):
        partition([], spec(by), 0)


def test_describe_counts_groups_images_and_melanomas() -> None:
    records = [
        record("a.jpg", patient_id="one", target=1),
        record("b.jpg", patient_id="one"),
        record("c.jpg"),
        record("d.jpg", lesion_id="two", target=1),
        record("e.jpg", lesion_id="two", target=1),
    ]
    (summary,) = describe(records, [ClinicSplit("north", train=(0, 1, 2), validation=(), test=(3, 4))])
    assert summary.model_dump() == {
        "name": "north",
        "train": {"groups": 2, "images": 3, "melanomas": 1},
        "validation": {"groups": 0, "images": 0, "melanomas": 0},
        "test": {"groups": 1, "images": 2, "melanomas": 2},
    }
    assert PartitionedClinic.model_validate_json(summary.model_dump_json()) == summary


def test_ham10000_by_source_has_four_clinics_and_whole_lesions(shared: Path) -> None:
    records = read_table(shared / "data" / "ham10000").records
    splits = partition(records, PartitionSpec(), 0)
    assert [s.name for s in splits] == ["HAM_rosendahl", "HAM_vidir_modern", "HAM_vidir_molemax", "HAM_vienna_dias"]
    assert len(places(splits)) == len(records) == 10_015
    assert_nothing_crosses(records, splits)
    table = describe(records, splits)
    assert sum(getattr(clinic, part).groups for clinic in table for part in PARTS) == 7_470
    assert sum(getattr(clinic, part).melanomas for clinic in table for part in PARTS) == 1_113
    for clinic in table:
        everything = sum(getattr(clinic, part).groups for part in PARTS)
        for part, share in ((clinic.test, 0.2), (clinic.validation, 0.1)):
            # Five standard deviations of a binomial number.
            assert abs(part.groups - share * everything) < 5 * (everything * share * (1 - share)) ** 0.5
        assert clinic.train.melanomas > 0


def test_isic_duplicates_across_sources_end_at_one_clinic(shared: Path) -> None:
    records = read_table(shared / "data" / "isic").records
    splits = partition(records, PartitionSpec(), 0)
    assert len(splits) == 6
    assert len(places(splits)) == len(records) == 6_000
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for row in records:
        if row.dup_group is not None:
            sources[row.dup_group].add(row.source)
    assert sum(len(names) > 1 for names in sources.values()) == 2
    assert_nothing_crosses(records, splits)
    found = places(splits)
    groups: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for index, group in enumerate(group_ids(records)):
        groups[group].add(found[index])
    assert all(len(where) == 1 for where in groups.values())
