"""A clinic's own model beside the federated one tells of no patient but what noise covers, of either part."""

from pathlib import Path

import pytest

from melfed.client.data.split import Part
from tests.neighbours.check import neighbours
from tests.neighbours.models import ordinary, overflowing
from tests.neighbours.questions import model_of, whole_study
from tests.neighbours.situations import SITUATIONS
from tests.neighbours.studies import study_of

HISTOGRAMS = 4
"""Of all questions without a model of the clinic's own: three validations, and the final evaluation."""


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", ["plain", "several_images", "only_patient", "nameless"])
def test_whoever_the_patient_is(name: str, part: Part, tmp_path: Path) -> None:
    situation = SITUATIONS[name](part)
    study = study_of(**{**situation.study, "evaluation": {"local_baseline": True}})
    own = model_of(study)
    models = [ordinary(own, 0), overflowing(own), ordinary(own, 2), ordinary(own, 3)]
    asked = neighbours(tmp_path, situation.crowd, situation.one, lambda who: whole_study(who, study, models))
    assert asked.verdict.faults == []
    kinds = [release.kind for release in asked.with_.releases]
    assert kinds.count("histograms") == HISTOGRAMS + 1
    assert kinds.count("training") == 3 * (2 + 2) + 1, "three rounds of two steps a model, and one called off"
    if (name, part) == ("plain", "test"):
        assert asked.verdict.worst["histograms"] > 0.5, "whoever is there shows, or nothing is tested"
