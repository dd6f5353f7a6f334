"""Diagnoses as codes of ICD-10, ICD-11 and ICD-O-3."""

import pytest

from melfed.common.data.vocabulary import codes
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import positive_entities

MEL = positive_entities(["mel"])


@pytest.mark.parametrize("digit", range(10))
def test_chapters_of_icd10(digit: int) -> None:
    assert read_diagnosis(f"C43.{digit}").target(MEL) == 1
    assert read_diagnosis(f"D03.{digit}").fine == "mel_in_situ"
    assert read_diagnosis(f"D22.{digit}").code == "nv"
    assert read_diagnosis(f"C44.{digit}").target(MEL) == 0
    assert read_diagnosis(f"C69.{digit}").target(MEL) is None
    assert read_diagnosis(f"D48.{digit}").target(MEL) is None, "uncertain, or not of the skin and unknown"


@pytest.mark.parametrize(
    "written",
    ["C43.5", "c43.5", "C435", "C43.50", "C43.-", "C43.*", "C43", "ICD-10: C43.5", "ICD10-GM C43.5", " C43.5 "],
)
def test_spellings_of_a_code(written: str) -> None:
    assert read_diagnosis(written).fine == "mel_invasive"


@pytest.mark.parametrize(("letter", "target"), [("G", 1), ("V", None), ("A", None), ("Z", None)])
def test_letters_of_certainty(letter: str, target: int | None) -> None:
    for written in (f"C43.5{letter}", f"C43.5 {letter}"):
        assert read_diagnosis(written).target(MEL) == target


@pytest.mark.parametrize("morphology", range(8720, 8791))
def test_the_behaviour_of_a_melanocytic_morphology_decides(morphology: int) -> None:
    if morphology == 8728:
        pytest.skip("of the meninges")
    targets = {str(n): read_diagnosis(f"{morphology}/{n}").target(MEL) for n in (0, 1, 2, 3, 6, 9)}
    assert targets == {"0": 0, "1": None, "2": 1, "3": 1, "6": 1, "9": 1}
    assert read_diagnosis(f"{morphology}").target(MEL) is None
    assert read_diagnosis(f"M{morphology}3").target(MEL) == 1


def test_meningeal_melanocytes_are_no_lesion_of_the_skin() -> None:
    assert {read_diagnosis(f"8728/{n}").reading for n in (0, 1, 3)} == {"undecided"}


@pytest.mark.parametrize("written", ["C99", "Z00.0", "9999/9", "8720/7", "A00", "1234"])
def test_other_codes_are_unknown(written: str) -> None:
    assert read_diagnosis(written).reading == "unknown"


@pytest.mark.parametrize(
    ("written", "fine"),
    [
        ("C43.5 Malignant melanoma of trunk", "mel_invasive"),
        ("Malignant melanoma of trunk (C43.5)", "mel_invasive"),
        ("8720/3 Malignant melanoma", "mel_invasive"),
        ("D22.5 melanocytic nevus", "nv"),
        ("D22.5 histologically confirmed", "nv"),
        ("C43.5 V.a.", None),
        ("V.a. C43.5", None),
        ("C43.5 nevus", "melanocytic"),
        ("C43.5 foo", None),
    ],
)
def test_a_code_with_words(written: str, fine: str | None) -> None:
    assert read_diagnosis(written).fine == fine


def test_every_code_has_entities() -> None:
    for table in (codes.ICD10, codes.ICD11, codes.ICDO):
        for written in table:
            assert read_diagnosis(written).reading in ("known", "undecided"), written
