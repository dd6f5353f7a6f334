"""A study that asks for moments is one that can have them, and says so in a line where it is not."""

import pytest

from melfed.common.study.moments_keys import ONE_ROUND, SOLVED_START, moments_keys, way_of
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import resolve

START: dict[str, object] = {"start": "one_round"}
ONCE: dict[str, object] = {"mode": "one_round"}
PRIVATE: dict[str, object] = {"unit": "patient", "epsilon": 3.0}


def study_of(federation: dict[str, object], **sections: object) -> StudyProtocol:
    return StudyProtocol.model_validate(
        {"model": {"neck": 4}, "federation": federation, "privacy": PRIVATE, **sections}
    )


@pytest.mark.parametrize(("federation", "keys"), [(START, SOLVED_START), (ONCE, ONE_ROUND), ({}, {})])
def test_the_recipe_writes_what_moments_need(federation: dict[str, object], keys: dict[str, object]) -> None:
    study, _ = resolve(study_of(federation))
    assert moments_keys(study) == keys
    for path, value in keys.items():
        section, key = path.split(".")
        assert getattr(getattr(study, section), key) == value


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_baseline_asks_nobody_whatever_its_start(mode: str) -> None:
    study = StudyProtocol.model_validate({"federation": {"mode": mode, "start": "one_round"}})
    assert moments_keys(study) == {}


@pytest.mark.parametrize("federation", [START, ONCE])
def test_what_lacks_privacy_or_a_neck_is_refused_by_the_way_s_name(federation: dict[str, object]) -> None:
    name = way_of(study_of(federation))
    assert name == ("federation.start one_round" if federation is START else "federation.mode one_round")
    for sections, words in (
        ({"privacy": None}, "is for private studies"),
        ({"model": {}}, "needs the public features"),
    ):
        with pytest.raises(ValueError, match=f"{name} {words}"):
            study_of(federation, **sections)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"neck": 4, "train": "affine"}}, "has model.train head, not affine"),
        ({"model": {"neck": 4, "train": "head"}, "privacy": {**PRIVATE, "sampling_rate": 0.5}}, "not 0.5"),
    ],
)
def test_by_hand_other_values_are_refused(sections: dict[str, dict[str, object]], words: str) -> None:
    manual = {**PRIVATE, **sections.get("privacy", {}), "recipe": "manual"}
    with pytest.raises(ValueError, match=words):
        study_of(START, **{**sections, "privacy": manual})
