"""Diagnoses of several words: every part is known, or nothing is read."""

import pytest

from melfed.common.data.vocabulary.compose import MELANOMAS, read, read_qualifiers
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("melanoma of the back", MELANOMAS),
        ("superficial spreading melanoma, Breslow 0.8 mm, Clark III", MELANOMAS),
        ("melanoma in situ", CODES["mel_in_situ"].entities),
        ("invasive melanoma", {"mel_invasive"}),
        ("metastasis of a melanoma", {"mel_metastasis"}),
        ("melanoma arising in a naevus", MELANOMAS),
        ("squamous cell carcinoma in situ", {"bowen"}),
        ("compound nevus of the face", CODES["nv"].entities),
        ("melanoma and nevus", MELANOMAS | CODES["nv"].entities),
        ("suspected melanoma", EVERYTHING),
        ("no melanoma", EVERYTHING),
    ],
)
def test_a_name_with_known_words_beside_it(text: str, entities: frozenset[str]) -> None:
    found = read(text)
    assert found is not None
    assert found.could_be == entities


@pytest.mark.parametrize("text", ["melanoma wartoid", "of the back", "", "nevus Breslow 0.8 mm", "invasive nevus"])
def test_a_part_that_is_not_known_or_does_not_fit_makes_the_whole_unread(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [("suspected", "hedge"), ("status post", "hedge"), ("of the back", "neutral"), ("wartoid", None), ("nevus", None)],
)
def test_words_that_name_no_lesion(words: str, said: str | None) -> None:
    assert read_qualifiers(words) == said
