"""Whoever sees everything that a clinic sends cannot tell whether one patient was there, but for what noise covers."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melfed.client.data.clinic_data import PARTS
from melfed.client.data.split import Part
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from tests.neighbours.check import Neighbours, neighbours
from tests.neighbours.hostile import Genome, build, genomes
from tests.neighbours.models import ordinary
from tests.neighbours.questions import model_of, whole_study
from tests.neighbours.situations import SITUATIONS, Situation
from tests.neighbours.studies import study_of

RELEASES = 13
"""Of all questions of a study of two rounds of two steps: five rounds, one of them called off, five histograms, counts
of two runs; a question that is repeated has none."""


def ask_all(folder: Path, situation: Situation, study: StudyProtocol, models: list[Tensors]) -> Neighbours:
    asked = neighbours(folder, situation.crowd, situation.one, lambda who: whole_study(who, study, models))
    assert len(asked.without.releases) == RELEASES, [release.kind for release in asked.without.releases]
    return asked


@pytest.mark.parametrize("name", SITUATIONS)
def test_whoever_the_patient_is(name: str, tmp_path: Path) -> None:
    situation = SITUATIONS[name]("train")
    study = study_of(**situation.study)
    models = [ordinary(model_of(study), seed) for seed in range(4)]
    assert ask_all(tmp_path, situation, study, models).verdict.faults == []


@st.composite
def studies(draw: st.DrawFn) -> dict[str, dict[str, object]]:
    """Sections of studies that a clinic's default policy allows."""
    return {
        "privacy": {
            "steps": 2,
            "sampling_rate": draw(st.sampled_from((1.0, 0.5, 0.2))),
            "clipping": draw(st.sampled_from(("fixed", "normalised"))),
            "clipping_norm": draw(st.sampled_from((1.0, 0.001, 10.0))),
            "views": draw(st.sampled_from((1, 3))),
        },
        "model": {"metadata": draw(st.booleans()), "dropout": draw(st.sampled_from((0.0, 0.5)))},
        "training": {
            "augment": draw(st.booleans()),
            "positive_weight": draw(st.sampled_from((1.0, 100.0, 0.01))),
            "optimizer": draw(st.sampled_from(("sgd", "adam"))),
        },
    }


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(
    name=st.sampled_from(list(SITUATIONS)),
    part=st.sampled_from(PARTS),
    sections=studies(),
    data=st.data(),
)
def test_whatever_is_asked(name: str, part: Part, sections: dict[str, dict[str, object]], data: st.DataObject) -> None:
    situation = SITUATIONS[name](part)
    study = study_of(**sections, **situation.study)
    own = model_of(study)
    drawn: list[Genome] = data.draw(st.lists(genomes(list(own)), min_size=4, max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        models = [build(ordinary(own, seed), genome) for seed, genome in enumerate(drawn)]
        assert ask_all(Path(folder), situation, study, models).verdict.faults == []
