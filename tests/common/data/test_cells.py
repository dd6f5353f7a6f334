import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.cells import OLDEST, is_unknown, read_age, read_binary


@pytest.mark.parametrize(
    ("text", "age"),
    [
        *[("45", 45), ("45.0", 45), ("45,5", 45.5), (" 45 ", 45), ("007", 7), ("0", 0), ("120", 120)],
        *[("060Y", 60), ("60Y", 60), ("60y", 60), ("018M", 1.5), ("000D", 0)],
        *[(">90", 90), ("≥ 90", 90), (">=90", 90), ("90+", 90), ("85+", 85), ("~40", 40), ("<1", 1)],
        *[("60 years", 60), ("60 Jahre", 60), ("60 J.", 60), ("60 ans", 60), ("６０", 60)],
        *[("1960", None), ("999", None), ("300", None), ("121", None), ("-1", None), ("-45", None)],
        *[("40-50", None), ("(40,45]", None), ("nan", None), ("inf", None), ("1e2", None), ("", None), ("old", None)],
        *[("1960-05-01", None), ("45,5,5", None), ("4 5", None)],
    ],
)
def test_ages(text, age):
    assert read_age(text) == age


def test_an_age_in_weeks():
    assert read_age("026W") == pytest.approx(26 * 7 / 365.25)


@given(st.text(max_size=10))
def test_an_age_is_one_that_a_person_can_have(text):
    age = read_age(text)
    assert age is None or 0 <= age <= OLDEST


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1", 1), ("0", 0), ("1.0", 1), ("0,0", 0), (" 1 ", 1), ("True", 1), ("FALSE", 0), ("1.", 1)],
        *[("2", None), ("yes", None), ("", None), ("0.5", None), ("-1", None), ("nan", None), ("1e400", None)],
    ],
)
def test_binary_cells(text, value):
    assert read_binary(text) == value


@pytest.mark.parametrize("text", ["", " ", "NA", "N/A", "nan", "Unknown", "unbekannt", "k. A.", "?", "-", "#NV"])
def test_unknown_cells(text):
    assert is_unknown(text)


@pytest.mark.parametrize("text", ["0", "nevus", "no", "benign", "none of these"])
def test_known_cells(text):
    assert not is_unknown(text)
