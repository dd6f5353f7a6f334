"""Operating points that a study names: one of both kinds, between 0 and 1, each once."""

import pytest
from pydantic import ValidationError

from melfed.common.study.evaluation_keys import EvaluationSpec, PointSpec
from melfed.common.study.protocol import StudyProtocol


def test_points_are_read_as_they_are_written_and_none_is_the_default() -> None:
    content = '{"evaluation": {"operating_points": [{"sensitivity": 0.95}, {"specificity": 0.9}]}}'
    study = StudyProtocol.model_validate_json(content)
    assert [(p.kind, p.wanted) for p in study.evaluation.operating_points] == [
        ("sensitivity", 0.95),
        ("specificity", 0.9),
    ]
    assert StudyProtocol().evaluation == EvaluationSpec()
    assert study.digest != StudyProtocol().digest


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"sensitivity": 0.9, "specificity": 0.9},
        {"sensitivity": 0.0},
        {"sensitivity": 1.0},
        {"specificity": -0.1},
        {"specificity": float("nan")},
        {"sensitivity": "0.9"},
        {"threshold": 0.5},
    ],
)
def test_what_is_no_point_is_refused(point: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PointSpec.model_validate(point)


def test_a_point_that_stands_twice_is_refused_by_name() -> None:
    twice = (PointSpec(sensitivity=0.9), PointSpec(specificity=0.9), PointSpec(sensitivity=0.9))
    with pytest.raises(ValidationError, match=r"operating point sensitivity 0\.9 stands twice"):
        EvaluationSpec(operating_points=twice)
    with pytest.raises(ValidationError):
        EvaluationSpec(operating_points=tuple(PointSpec(sensitivity=i / 100) for i in range(1, 23)))
