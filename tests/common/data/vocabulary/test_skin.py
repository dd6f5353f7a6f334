"""Skin types and the scales that are brought to them."""

import pytest

from melfed.common.data.vocabulary.skin import read_fitzpatrick, read_ita, read_milk10k, read_monk


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((numeral, number) for number, numeral in enumerate(("I", "II", "III", "IV", "V", "VI"), 1)),
        *((f"{number}.0", number) for number in range(1, 7)),
        ("iii", 3),
        ("type IV", 4),
        ("Fitzpatrick 2", 2),
        ("Fitzpatrick skin type VI", 6),
        ("FST 5", 5),
        ("Hauttyp II", 2),
        ("fototipo III", 3),
    ],
)
def test_a_type(word: str, value: int) -> None:
    assert (read_fitzpatrick(word).value, read_fitzpatrick(word).reading) == (value, "known")


@pytest.mark.parametrize("word", ["", "-1", "0", "NaN", "unknown", "99"])
def test_a_type_that_is_not_known(word: str) -> None:
    assert (read_fitzpatrick(word).value, read_fitzpatrick(word).reading) == (None, "missing")


@pytest.mark.parametrize("word", ["7", "12", "II-III", "VII", "fair", "3.5"])
def test_a_type_that_is_none(word: str) -> None:
    assert (read_fitzpatrick(word).value, read_fitzpatrick(word).reading) == (None, "unknown")


@pytest.mark.parametrize(
    ("angle", "value"),
    [("60", 1), ("55", 2), ("48,5", 2), ("41", 3), ("30", 3), ("28", 4), ("10", 5), ("-30", 6), ("-50", 6)],
)
def test_typology_angles(angle: str, value: int) -> None:
    assert read_ita(angle).value == value


@pytest.mark.parametrize("angle", ["", "x", "120", "nan"])
def test_what_is_no_angle(angle: str) -> None:
    assert read_ita(angle).value is None


def test_other_scales_are_monotone() -> None:
    monk = [read_monk(f"MST {tone}").value or 0 for tone in range(1, 11)]
    assert monk == sorted(monk) == [1, 1, 1, 1, 2, 4, 5, 6, 6, 6]
    assert [read_milk10k(str(tone)).value for tone in range(6)] == [6, 5, 4, 3, 2, 1]
    assert [read_monk("0").value, read_monk("11").reading, read_milk10k("6").reading] == [None, "unknown", "unknown"]
