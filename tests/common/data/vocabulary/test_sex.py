"""Words for sex."""

import pytest

from melfed.common.data.vocabulary.sex import read_sex


@pytest.mark.parametrize(
    "word", ["male", "M", "Männlich", "mann", "homme", "Masculino", "hombre", "varón", "maschio", "homem", "man"]
)
def test_male(word: str) -> None:
    assert read_sex(word).value == "male"


@pytest.mark.parametrize(
    "word", ["female", "F", "weiblich", "W", "Frau", "femme", "féminin", "mujer", "femmina", "mulher", "vrouw", "V"]
)
def test_female(word: str) -> None:
    assert read_sex(word).value == "female"


@pytest.mark.parametrize(
    ("word", "reading"),
    [("", "missing"), ("unknown", "missing"), ("divers", "missing"), ("O", "missing"), ("5", "unknown")],
)
def test_neither(word: str, reading: str) -> None:
    assert (read_sex(word).value, read_sex(word).reading) == (None, reading)
