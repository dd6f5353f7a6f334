"""What is told of a model: what follows from its study, what is stated, and what cannot be read."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from melfed.common.errors import RunError
from melfed.common.export.facts import Calibration, ModelFacts, OperatingPoint, Protection, read_facts
from melfed.common.export.out_of_distribution import of_public
from melfed.common.study.protocol import StudyProtocol

STUDY = StudyProtocol(name="small")
FACTS = ModelFacts.of(STUDY, run="ab12")


def test_what_follows_from_the_study_is_the_studys() -> None:
    assert (FACTS.study, FACTS.name, FACTS.backbone) == (STUDY.digest, "small", STUDY.model.backbone)
    assert (FACTS.image_size, FACTS.positive, FACTS.metadata) == (128, ("mel",), False)
    assert FACTS.privacy is FACTS.calibration is None


def test_facts_come_back_as_they_were_written() -> None:
    full = ModelFacts.of(
        STUDY,
        privacy=Protection(unit="patient", epsilon=3.0, delta=1e-5),
        calibration=Calibration(slope=0.5, intercept=-1.0),
        operating_points=(OperatingPoint(name="sensitivity 0.95", threshold=0.2),),
        seen=of_public(np.random.default_rng(0).normal(size=(90, 3)), [False] * 60 + [True] * 30),
    )
    for facts in (FACTS, full):
        assert read_facts(facts.model_dump_json(), "it") == facts


def test_the_flat_list_says_what_there_is_not() -> None:
    told = FACTS.described()
    assert told["calibration"].startswith("none: the probability is the sigmoid of the logit")
    assert told["epsilon"] == "none: trained without differential privacy"
    assert json.loads(told["operating_points"]) == []
    unbounded = ModelFacts.of(STUDY, privacy=Protection(unit="patient", epsilon=None, delta=1e-5)).described()
    assert unbounded["epsilon"] == "none: no bound"
    assert "No medical device" in told["intended_use"]
    assert told["study_digest"] == STUDY.digest
    assert read_facts(told["melfed"], "it") == FACTS


@pytest.mark.parametrize("text", ["", "{}", "[]", FACTS.model_dump_json().replace(FACTS.study, "x")])
def test_what_cannot_be_read_is_one_line(text: str) -> None:
    with pytest.raises(RunError, match=r"^there: what it says of the model cannot be read: [^\n]+$"):
        read_facts(text, "there")


def test_two_points_of_one_name_are_none() -> None:
    point = OperatingPoint(name="a", threshold=0.5)
    with pytest.raises(ValidationError, match="one name"):
        ModelFacts.of(STUDY, operating_points=(point, point))
