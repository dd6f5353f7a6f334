"""Whoever sees everything that a clinic sends cannot tell whether one patient was there, but for what noise covers."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melfed.client.data.clinic_data import PARTS
from melfed.client.data.split import Part
from melfed.common.study.build import seal
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from tests.common.runs import finished_run, public_model
from tests.neighbours.check import Neighbours, neighbours
from tests.neighbours.hostile import Genome, build, genomes
from tests.neighbours.models import ordinary
from tests.neighbours.questions import model_of, one_round, solved_start, whole_study
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


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_whoever_the_patient_is_in_one_round(name: str, part: Part, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "public", public_model(neck=3))
    situation = SITUATIONS[name](part)
    model = {"pretrained": True, "weights": str(run), "neck": 3, "train": "head"}
    federation = {"mode": "one_round", "rounds": 1}
    study = study_of(model=model, federation=federation, privacy={"steps": 1}, **situation.study)
    study = seal(study)
    own = model_of(study)
    models = [ordinary(own, seed) for seed in range(2)]
    told = study.with_changes("model", weights=None)
    asked = neighbours(
        tmp_path, situation.crowd, situation.one, lambda who: one_round(who, told, models), weights=str(run)
    )
    kinds = [release.kind for release in asked.without.releases]
    assert kinds == ["counts", "moments", "histograms", "histograms", "moments"]
    assert asked.verdict.faults == []
    if name not in {"nameless", "unknown_diagnosis"}:
        assert asked.verdict.worst["moments"] > 0.5, "whoever is there shows, or nothing is tested"


@pytest.mark.parametrize(("part", "metadata"), [("train", True), ("validation", False)])
def test_whoever_the_patient_is_where_rounds_begin_at_a_solved_head(part: Part, metadata: bool, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "public", public_model(neck=3))
    situation = SITUATIONS["plain"](part)
    model = {"pretrained": True, "weights": str(run), "neck": 3, "train": "head", "metadata": metadata}
    stated = {"steps": 1, "sampling_rate": 1.0}
    study = seal(study_of(model=model, federation={"start": "one_round"}, privacy=stated, **situation.study))
    own = model_of(study)
    models = [ordinary(own, seed) for seed in range(3)]
    told = study.with_changes("model", weights=None)
    asked = neighbours(
        tmp_path, situation.crowd, situation.one, lambda who: solved_start(who, told, models), weights=str(run)
    )
    kinds = [release.kind for release in asked.without.releases]
    assert kinds.count("moments") == 2, "once for each run, whoever asks again"
    assert kinds.count("histograms") >= 1
    assert asked.verdict.faults == []
    assert asked.verdict.worst["moments"] > 0.5, "whoever is there shows, or nothing is tested"


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
