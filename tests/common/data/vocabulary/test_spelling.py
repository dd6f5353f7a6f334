"""Spellings that are one."""

import pytest

from melfed.common.data.vocabulary.spelling import plain, stem, stems


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  Nävus ", "naevus"),
        ("na\u0308vus", "naevus"),
        ("NÆVUS", "naevus"),
        ("Mélanome\u00a0malin", "melanome malin"),
        ("ｍｅｌａｎｏｍａ", "melanoma"),
        ("mel\u200banoma", "melanoma"),
        ("Bowen's disease", "bowen disease"),
        ("Bowen’s disease", "bowen disease"),
        ("melanoma?", "melanoma ?"),
        ("TD 0,7 mm", "td 0.7 mm"),
        ("scalp and/or neck", "scalp and neck"),
        ("head_neck-face", "head neck face"),
        ("V.a. Melanom", "verdacht auf melanom"),
        ("Z. n. Melanom", "zustand nach melanom"),
        ("r/o melanoma", "rule out melanoma"),
        ("Gesäß", "gesaess"),
    ],
)
def test_plain(text: str, folded: str) -> None:
    assert plain(text) == folded


@pytest.mark.parametrize(
    "words",
    [
        ("melanoma", "melanomas", "melanome", "melanom"),
        ("malignes", "maligner", "maligna", "maligno", "maligne"),
        ("haemangioma", "hemangioma", "hemangiomas"),
        ("tumour", "tumor", "tumors"),
        ("seborrhoeic", "seborrheic"),
        ("melanozytaerer", "melanozytaeres", "melanozytaer"),
    ],
)
def test_one_stem(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == 1


def test_words_that_stay_apart() -> None:
    assert len({stem(word) for word in ("never", "nevus", "nevoid")}) == 3
    assert stem("sccis") != stem("scc")
    assert stems("Lentigo maligna") != stems("Lentigo")
