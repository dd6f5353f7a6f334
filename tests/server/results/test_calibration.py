"""What a finished run says of its model's calibration and operating points: from released histograms, of one model."""

from pathlib import Path

import pytest

from melfed.common.export.facts import OperatingPoint
from melfed.common.metrics.histogram import sigmoid
from melfed.common.study.evaluation_keys import EvaluationSpec, PointSpec
from melfed.common.study.protocol import FederationSpec, StudyProtocol
from melfed.server.results.calibration import one_model, summarise_calibration, summarise_points
from melfed.server.results.card import card, markdown
from melfed.server.results.facts import facts_of
from melfed.server.runs.outcome import Outcome
from tests.common.metrics.normal_scores import exact, noised, scores
from tests.server.fake_run import NOISED, FakeRun

POINTS = (PointSpec(sensitivity=0.9), PointSpec(specificity=0.8), PointSpec(sensitivity=0.99))
STUDY = StudyProtocol(evaluation=EvaluationSpec(operating_points=POINTS))
ENOUGH = {"images": (4000, 3000), "melanoma_rates": (0.3, 0.2), "clinics": ("a", "b")}


@pytest.mark.parametrize("sigma", [None, 4.0])
def test_scores_that_are_too_steep_are_calibrated_and_points_are_kept_on_the_test_part(sigma: float | None) -> None:
    parts = []
    for seed in (1, 2):
        x, y = scores(1000, 4000, seed)
        parts.append(exact(3 * x + 1, y) if sigma is None else noised(3 * x + 1, y, sigma, seed))
    outcome = Outcome({}, {}, {"a": parts[1]}, validation=parts[0])
    found = summarise_calibration(STUDY, outcome)
    assert found is not None
    assert found.fitted is not None
    assert found.after is not None
    before, after = found.before.slope, found.after.slope
    assert before.high < 0.6, "a third of the slope"
    assert after.low < 1.1
    assert after.high > 0.9
    assert found.after.brier.value < found.before.brier.value
    for point in summarise_points(STUDY, outcome):
        assert point.logit is not None
        of_test = getattr(point.test, point.kind)
        assert of_test.low - 0.03 < point.wanted < of_test.high + 0.03


def test_without_validation_or_with_a_model_a_clinic_nothing_is_said() -> None:
    h = exact(*scores(50, 200))
    assert summarise_calibration(STUDY, Outcome({}, {}, {"a": h})) is None
    assert summarise_points(STUDY, Outcome({}, {}, {"a": h})) == ()
    for federation in (FederationSpec(mode="local"), FederationSpec(algorithm="ditto")):
        study = StudyProtocol(federation=federation, evaluation=STUDY.evaluation)
        assert not one_model(study)
        outcome = Outcome({}, {}, {"a": h}, validation=h)
        assert (summarise_calibration(study, outcome), summarise_points(study, outcome)) == (None, ())
    assert one_model(StudyProtocol(federation=FederationSpec(mode="central")))


def test_facts_and_card_carry_the_map_and_the_thresholds_of_its_probabilities(tmp_path: Path) -> None:
    folder = FakeRun(points=POINTS[:2], **ENOUGH).write(tmp_path / "run")
    facts, summary = facts_of(folder), folder.summary()
    assert summary.calibration is not None
    assert facts.calibration == summary.calibration.fitted
    assert facts.calibration is not None
    point, told = summary.operating_points[0], facts.operating_points[0]
    promise = point.validation.sensitivity
    threshold = float(sigmoid(facts.calibration.logit(point.logit)))
    assert told == OperatingPoint(name="sensitivity 0.9", threshold=threshold, low=promise.low, high=promise.high)
    content = card(folder)
    assert [row["name"] for row in content["results"]["operating_points_on_test"]] == [
        "sensitivity 0.9",
        "specificity 0.8",
    ]
    assert any("calibrated for patients as in validation" in limit for limit in content["limits"])
    assert "## Operating points" in markdown(content)
    assert f"| sensitivity 0.9 | validation | {promise.value:.3f}" in markdown(content)


def test_a_private_run_with_too_few_says_what_would_be_needed(tmp_path: Path) -> None:
    folder = FakeRun(points=POINTS[:1], privacy=NOISED, images=(30, 20, 12, 8)).write(tmp_path / "run")
    facts, content = facts_of(folder), card(folder)
    assert (facts.calibration, facts.operating_points) == (None, ())
    limits = " ".join(content["limits"])
    assert "Operating point sensitivity 0.9 is not promised: the noise hides a class; about" in limits
    assert "not calibrated (the noise hides a class; about" in limits
