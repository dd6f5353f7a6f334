"""Units of privacy: never finer than what was asked for, and refused where the table cannot tell."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.privacy.units import privacy_units
from common.errors import DataError
from tests.common.lesions import one_line, record

KEYS = ("patient_id", "lesion_id", "dup_group")
ids = st.sampled_from([None, "1", "2", "3", "4"])
tables = st.lists(st.fixed_dictionaries(dict.fromkeys(KEYS, ids)), max_size=8).map(
    lambda rows: [record(f"{number}.jpg", **row) for number, row in enumerate(rows)]
)


@settings(deadline=None, max_examples=200)
@given(tables, st.sampled_from(["patient", "lesion"]))
def test_units_hold_together_whatever_shares_an_id(records, unit):
    known = [r.patient_id is not None or (unit == "lesion" and r.lesion_id is not None) for r in records]
    if not all(known):
        with pytest.raises(DataError):
            privacy_units(records, unit)
        return
    units = privacy_units(records, unit)
    assert len(units) == len(records)
    for (one, first), (other, second) in combinations(zip(records, units, strict=True), 2):
        if any(getattr(one, key) is not None and getattr(one, key) == getattr(other, key) for key in KEYS):
            assert first == second


@settings(deadline=None, max_examples=100)
@given(tables)
def test_an_image_is_a_unit_unless_it_is_a_copy(records):
    units = privacy_units(records, "image")
    for (one, first), (other, second) in combinations(zip(records, units, strict=True), 2):
        copies = one.dup_group is not None and one.dup_group == other.dup_group
        assert (first == second) == copies


def test_patients_that_share_nothing_are_different_units():
    records = [record("1", patient_id="A"), record("2", patient_id="B", lesion_id="x"), record("3", patient_id="A")]
    first, second, third = privacy_units(records, "patient")
    assert first == third != second


def test_lesions_of_a_known_patient_are_one_unit():
    records = [record(i, lesion_id=i, patient_id=p) for i, p in (("1", "A"), ("2", "A"), ("3", None))]
    first, second, third = privacy_units(records, "lesion")
    assert first == second != third


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
