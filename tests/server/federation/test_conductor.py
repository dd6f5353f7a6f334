"""Which way a study is conducted."""

from melfed.common.study.protocol import ModelSpec, StudyProtocol
from melfed.server.federation.conductor import conductor
from melfed.server.federation.one_round import OneRound, SolvedStart
from melfed.server.federation.rounds import Rounds


def test_one_round_of_moments_or_rounds_of_training() -> None:
    study = StudyProtocol.model_validate(
        {
            "model": dict(ModelSpec(neck=4, train="head")),
            "federation": {"rounds": 1},
            "privacy": {"unit": "patient", "epsilon": 3.0, "recipe": "manual", "steps": 1, "sampling_rate": 1.0},
        }
    )
    assert conductor(study) is Rounds, "one round of training is no round of moments"
    federation = study.federation.model_copy(update={"mode": "one_round"})
    assert conductor(study.model_copy(update={"federation": federation})) is OneRound
    federation = study.federation.model_copy(update={"start": "one_round"})
    assert conductor(study.model_copy(update={"federation": federation})) is SolvedStart
