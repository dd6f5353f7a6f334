"""Keys that contradict each other."""

import pytest

from melfed.common.study.protocol import EvaluationSpec, FederationSpec, StopSpec, StudyProtocol
from melfed.common.study.together import contradiction


def test_a_plain_study_has_no_contradiction() -> None:
    assert contradiction(StudyProtocol()) == ""
    assert contradiction(StudyProtocol(federation=FederationSpec(stop=StopSpec()))) == ""


def test_what_nothing_reads_contradicts_nothing() -> None:
    """In a study of one round neither key has an effect."""
    spec = FederationSpec.model_construct(**{**dict(FederationSpec()), "mode": "one_round", "stop": StopSpec()})
    study = StudyProtocol.model_construct(federation=spec.model_copy(update={"tail_average": 0.5}), privacy=None)
    assert contradiction(study) == ""


@pytest.mark.parametrize(
    ("federation", "said"),
    [
        ({}, ""),
        ({"algorithm": "fedavgm"}, ""),
        ({"stop": StopSpec()}, ""),
        ({"mode": "local"}, ""),
        (
            {"mode": "one_round"},
            "evaluation.local_baseline trains at the clinics, and in federation.mode one_round",
        ),
        (
            {"start": "one_round"},
            "evaluation.local_baseline trains a second model, and federation.start one_round",
        ),
        ({"algorithm": "ditto"}, "federation.algorithm ditto keeps state of its own at the clinics; take fedavg"),
        ({"algorithm": "fedbn"}, "federation.algorithm fedbn keeps state of its own at the clinics; take fedavg"),
    ],
)
def test_what_a_model_of_each_clinics_own_does_not_go_with(federation: dict[str, object], said: str) -> None:
    spec = FederationSpec.model_construct(**{**dict(FederationSpec()), **federation})
    study = StudyProtocol.model_construct(federation=spec, evaluation=EvaluationSpec(local_baseline=True))
    assert contradiction(study).startswith(said)
    assert bool(contradiction(study)) == bool(said)
    assert contradiction(study.model_copy(update={"evaluation": EvaluationSpec()})) == ""
