"""The archive's hierarchy, with the official package as the oracle."""

import pytest
from isic_metadata.diagnosis_hierarchical import DiagnosisEnum

from melfed.common.data.vocabulary import archive
from melfed.common.data.vocabulary.diagnoses import read_diagnosis, read_levels
from melfed.common.data.vocabulary.entities import CODES, positive_entities

MEL = positive_entities(["mel"])
PATHS = sorted(member.value for member in DiagnosisEnum)
COLLISION = "Malignant:Collision - At least one malignant proliferation"


def test_every_branch_is_one_of_the_archive() -> None:
    assert set(archive.BRANCHES) <= set(PATHS)
    assert set(archive.BRANCHES.values()) <= set(CODES)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_the_archive(path: str) -> None:
    """A melanoma is what the package calls so, but for collisions; nothing indeterminate is a negative."""
    levels = path.split(":")
    found = read_levels(levels)
    assert found.reading in ("known", "undecided")
    assert (found.target(MEL) == 1) == (DiagnosisEnum.is_melanoma(path) and path != COLLISION)
    if levels[0] == "Benign":
        assert found.target(MEL) == 0
        assert (found.code == "nv") == (
            levels[1:2] == ["Benign melanocytic proliferations"] and levels[2:] != ["Lentigo simplex"]
        )
    if levels[:2] == ["Indeterminate", "Indeterminate melanocytic proliferations"] or path in (
        COLLISION,
        "Malignant",
        "Indeterminate",
    ):
        assert found.target(MEL) is None
    assert read_diagnosis(path).reading != "unknown", "the whole path in one cell"
    assert read_diagnosis(path.replace(":", "::")).could_be == read_diagnosis(path).could_be


@pytest.mark.parametrize("path", PATHS)
def test_a_name_of_the_archive_alone(path: str) -> None:
    """Alone, a name is never more certain of being a melanoma or not than its path is."""
    alone, whole = read_diagnosis(path.rsplit(":", maxsplit=1)[-1]), read_levels(path.split(":"))
    assert alone.reading in ("known", "undecided")
    assert alone.target(MEL) in (None, whole.target(MEL))


def test_a_new_branch_is_not_guessed() -> None:
    assert archive.branch_code("Malignant:A branch of tomorrow") is None
    assert archive.branch_code("Malignant:Merkel cell proliferation:A leaf of tomorrow") == "other_malignant"
