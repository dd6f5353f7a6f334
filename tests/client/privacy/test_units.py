"""Units of privacy: each image's from its own row, and refused where a simulation's table cannot tell."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.units import privacy_units, units_of
from melfed.common.errors import DataError
from tests.common.lesions import one_line, record

KEYS = ("patient_id", "lesion_id", "dup_group")
ids = st.sampled_from([None, "1", "2", "3", "4"])
tables = st.lists(st.fixed_dictionaries(dict.fromkeys(KEYS, ids)), max_size=8).map(
    lambda rows: [record(f"{number}.jpg", **row) for number, row in enumerate(rows)]
)


UNITS = ["patient", "lesion", "image"]


@settings(deadline=None, max_examples=200)
@given(tables, st.sampled_from(UNITS))
def test_a_unit_follows_from_its_own_row(records, unit):
    together = units_of(records, unit)
    assert together == [units_of([record], unit)[0] for record in records]


@settings(deadline=None, max_examples=200)
@given(tables, st.sampled_from(["patient", "lesion"]))
def test_images_of_one_id_are_one_unit_and_no_others(records, unit):
    key = f"{unit}_id"
    named = [(r, name) for r, name in zip(records, units_of(records, unit), strict=True) if getattr(r, key) is not None]
    for (one, first), (other, second) in combinations(named, 2):
        assert (getattr(one, key) == getattr(other, key)) == (first == second)


def test_a_picture_that_two_patients_share_merges_nobody():
    records = [record("1", patient_id="A", dup_group="x", lesion_id="l"), record("2", patient_id="B", dup_group="x")]
    for unit in UNITS:
        first, second = privacy_units(records, unit)
        assert first != second


def test_a_lesion_without_an_id_is_protected_with_all_of_its_patients():
    records = [record("1", patient_id="A"), record("2", patient_id="A"), record("3", lesion_id="A"), record("4")]
    assert units_of(records, "lesion") == ["patient:A", "patient:A", "lesion:A", None]


@pytest.mark.parametrize(
    ("records", "unit", "said"),
    [
        (
            [record("1", patient_id="A"), record("2", lesion_id="x"), record("3", lesion_id="y")],
            "patient",
            ["2 of 3 images have no patient id", "protects patients", "column patient_id", "support: lesion"],
        ),
        ([record("1", patient_id="A"), record("2")], "patient", ["1 of 2 images", "support: image"]),
        (
            [record("1", lesion_id="A"), record("2", dup_group="x")],
            "lesion",
            ["1 of 2 images have no lesion id or patient id", "protects lesions", "column lesion_id", "support: image"],
        ),
    ],
)
def test_the_message_counts_what_is_lacking_and_names_the_way_out(records, unit, said):
    with pytest.raises(DataError) as excinfo:
        privacy_units(records, unit)
    message = one_line(excinfo)
    for words in said:
        assert words in message


def test_no_records_are_no_units():
    assert privacy_units([], "patient") == privacy_units([], "lesion") == privacy_units([], "image") == []
