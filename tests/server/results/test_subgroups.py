"""What a run's summary says of subgroups: by cell and by clinic, at a threshold that the test part has no say in."""

import numpy as np
import pytest

from melfed.common.data.subgroups import ATTRIBUTES
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.operating_point import PointResult
from melfed.common.metrics.subgroups import subgroup_metrics
from melfed.common.study.protocol import EvaluationSpec, StudyProtocol
from melfed.server.results.subgroups import SPECIFICITY, summarise_subgroups
from melfed.server.runs.outcome import ChosenRound, Outcome
from melfed.server.runs.summary import RoundSummary, RunSummary
from tests.common.noisy import binormal


def asking(*attributes: str) -> StudyProtocol:
    return StudyProtocol(evaluation=EvaluationSpec(subgroups=attributes))


def scored(seed: int, positives: int = 30, negatives: int = 90) -> ScoreHistogram:
    logits, targets = binormal(np.random.default_rng(seed), positives, negatives)
    return ScoreHistogram.from_scores(logits, targets, list(range(len(logits))))


def a_round(number: int, seed: int | None) -> RoundSummary:
    validation = None if seed is None else histogram_metrics(scored(seed))
    told = {"train_loss": None, "seconds": 1.0, "bytes_up": 0, "bytes_down": 0, "answered": (), "failed": {}}
    return RoundSummary(round=number, validation=validation, **told)


TEST = {"north": scored(1), "south": scored(2), "tiny": scored(3, 2, 4)}
CELLS = {f"sex/{number}": scored(10 + number, *size) for number, size in enumerate([(30, 60), (40, 80), (0, 0)])}


def outcome(**more: object) -> Outcome:
    return Outcome({}, {}, TEST, subgroups=CELLS, **more)


def test_each_attribute_has_its_cells_and_the_clinics_are_those_of_source() -> None:
    found = summarise_subgroups(asking("sex", "source"), outcome(), [a_round(1, 20), a_round(2, 21)])
    assert found is not None
    assert [told.attribute for told in found.attributes] == ["sex", "source"]
    sex, source = found.attributes
    assert list(sex.cells) == list(ATTRIBUTES["sex"].cells)
    assert list(source.cells) == list(TEST)
    validation = a_round(2, 21).validation
    assert validation is not None
    assert (found.threshold, found.specificity) == (validation.threshold_at_90_specificity, SPECIFICITY)
    assert source.cells["north"] == subgroup_metrics(TEST["north"], found.threshold)
    assert sex.cells["unknown"].too_few
    assert source.cells["tiny"].too_few
    assert {gap.measure: {gap.lowest, gap.highest} for gap in sex.gaps}["auroc"] == {"male", "female"}
    assert {end for gap in source.gaps for end in (gap.lowest, gap.highest)} == {"north", "south"}


def test_a_study_that_stops_early_takes_the_threshold_of_the_round_whose_model_it_is() -> None:
    rounds = [a_round(1, 20), a_round(2, 21)]
    found = summarise_subgroups(asking("source"), outcome(chosen={"": ChosenRound(1, 0.8, 2)}), rounds)
    assert found is not None
    assert rounds[0].validation is not None
    assert found.threshold == rounds[0].validation.threshold_at_90_specificity


@pytest.mark.parametrize("rounds", [[], [a_round(1, None)], [a_round(1, 20), a_round(2, None)]])
def test_without_a_validation_of_the_model_the_threshold_is_one_half(rounds: list[RoundSummary]) -> None:
    found = summarise_subgroups(asking("source"), outcome(), rounds)
    assert found is not None
    assert (found.threshold, found.specificity) == (0.5, None)


def test_the_threshold_is_that_of_the_first_operating_point_that_can_be_promised() -> None:
    lacking = PointResult(kind="specificity", wanted=0.8)
    points = [lacking, PointResult(kind="sensitivity", wanted=0.95, logit=-1.5)]
    found = summarise_subgroups(asking("source"), outcome(), [a_round(1, 20)], points)
    assert found is not None
    assert (found.point, found.specificity) == ("sensitivity 0.95", None)
    assert found.threshold == pytest.approx(1 / (1 + np.exp(1.5)))
    without = summarise_subgroups(asking("source"), outcome(), [a_round(1, 20)], [lacking])
    assert without is not None
    assert (without.point, without.specificity) == (None, SPECIFICITY)


def test_nothing_is_said_where_nothing_was_asked_or_evaluated() -> None:
    assert summarise_subgroups(asking(), outcome(), []) is None
    assert summarise_subgroups(asking("sex"), Outcome({}, {}, {}), []) is None
    lacking = summarise_subgroups(asking("sex", "source"), Outcome({}, {}, TEST), [])
    assert lacking is not None
    assert [told.attribute for told in lacking.attributes] == ["source"], "of a run that never asked its clinics"


def test_the_summary_comes_back_from_its_file() -> None:
    found = summarise_subgroups(asking("sex", "source"), outcome(), [a_round(1, 20)])
    assert found is not None
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert "subgroups" in RunSummary.model_fields
