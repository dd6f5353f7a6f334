"""Which subgroup a patient is in: one a attribute, by its own images, whatever the table lacks."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.data.records import LesionRecord
from melfed.common.data.subgroups import ATTRIBUTES, BY_CLINIC, UNKNOWN, cell_names, cells_of
from melfed.common.data.vocabulary.sites import SITES

PLAIN = LesionRecord("a.jpg", 0, "nv", "p", None, None, 42.0, "male", "torso", "here", None, 3)


def cell(attribute: str, **facts: object) -> str:
    record = dataclasses.replace(PLAIN, **facts)
    return ATTRIBUTES[attribute].cells[cells_of([record], ["p"], attribute)[0]]


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        *(("age", 0.0, "under 30"), ("age", 29.9, "under 30"), ("age", 30.0, "30 to 49"), ("age", 50.0, "50 to 69")),
        *(("age", 70.0, "70 and over"), ("age", 200.0, "70 and over"), ("age", None, UNKNOWN)),
        *(("age", math.nan, UNKNOWN), ("age", math.inf, UNKNOWN), ("age", -1.0, UNKNOWN)),
        *(("sex", "female", "female"), ("sex", None, UNKNOWN), ("sex", "other", UNKNOWN)),
        *(("site", "palms/soles", "palms/soles"), ("site", None, UNKNOWN), ("site", "nowhere", UNKNOWN)),
        *(("skin_type", 1, "I"), ("skin_type", 6, "VI"), ("skin_type", None, UNKNOWN), ("skin_type", 0, UNKNOWN)),
    ],
)
def test_every_value_has_a_cell_and_what_is_not_said_one_of_its_own(
    attribute: str, value: object, expected: str
) -> None:
    assert cell(attribute, **{attribute: value}) == expected


def test_cells_are_those_of_the_vocabulary_and_hang_on_no_data() -> None:
    assert ATTRIBUTES["site"].cells == (*SITES, UNKNOWN)
    assert all(
        found.cells[-1] == UNKNOWN and len(set(found.cells)) == len(found.cells) for found in ATTRIBUTES.values()
    )
    assert cell_names(("sex", BY_CLINIC)) == ("sex/0", "sex/1", "sex/2")
    assert len(cell_names(tuple(ATTRIBUTES))) == sum(len(found.cells) for found in ATTRIBUTES.values())
    assert all(cells_of([], [], attribute).shape == (0,) for attribute in ATTRIBUTES)


IMAGES = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["male", "female", None]), st.sampled_from("pq")),
    max_size=12,
    unique_by=lambda image: image[0],
)


@given(IMAGES, st.randoms(use_true_random=False))
def test_a_patient_is_in_the_cell_of_its_first_image_by_name_whatever_the_order_and_the_others(
    images: list[tuple[str, str | None, str]], random: object
) -> None:
    records = [dataclasses.replace(PLAIN, image=name, sex=sex) for name, sex, _ in images]
    patients = [patient for _, _, patient in images]
    found = cells_of(records, patients, "sex")
    for patient in set(patients):
        first = min(name for name, _, whose in images if whose == patient)
        sex = next(sex for name, sex, _ in images if name == first)
        own = [place for place, whose in enumerate(patients) if whose == patient]
        assert set(found[own]) == {ATTRIBUTES["sex"].cells.index(sex or UNKNOWN)}
        alone = cells_of([records[place] for place in own], ["it"] * len(own), "sex")
        assert np.array_equal(alone, found[own]), "another patient has a part in it"
    order = list(range(len(images)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = cells_of([records[place] for place in order], [patients[place] for place in order], "sex")
    assert np.array_equal(shuffled, found[order])
