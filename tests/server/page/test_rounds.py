"""A run's rounds, read as they come."""

import json
from pathlib import Path

import numpy as np
import pytest

from melfed.common.metrics.noisy import metrics_of
from melfed.server.page.rounds import RunRounds
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import noised_scores, scores
from tests.server.page.made import HOSTILE, STUDY, add_round


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "r", STUDY)


def test_rounds_come_as_they_are_written(folder: RunFolder) -> None:
    rounds = RunRounds(folder)
    rounds.look()
    assert rounds.parts() == {}
    add_round(folder, 1)
    rounds.look()
    (row,) = rounds.parts()["rounds/0"]
    assert (row["answered"], row["asked"], row["declined"]) == (1, 3, {"b": HOSTILE})
    (validation,) = [event for event in folder.events() if event["event"] == "validation"]
    pooled = validation["pooled"]["auroc"]
    assert row["auroc"] == [pooled["value"], pooled["low"], pooled["high"]]
    told = rounds.clinics["a"]
    assert (told.answered, told.validation, rounds.clinics["b"].declined) == (1, row["auroc"], (1, HOSTILE))
    for number in range(2, 204):
        folder.append({"event": "round", "round": number, "answered": ["a"], "failed": {}, "declined": {}})
    rounds.look()
    assert {name: len(part) for name, part in rounds.parts().items()} == {
        "rounds/0": 100,
        "rounds/1": 100,
        "rounds/2": 3,
    }
    assert rounds.clinics["a"].answered == 203


def test_a_long_run_is_read_in_several_looks(folder: RunFolder) -> None:
    add_round(folder, 1)
    add_round(folder, 2)
    rounds = RunRounds(folder)
    for seen, more in ((1, True), (1, True), (2, True), (2, True), (2, False)):
        assert rounds.look(seconds=0) == more
        assert len(rounds.rows) == seen


def test_a_run_that_goes_on_from_a_checkpoint_drops_what_came_after_it(folder: RunFolder) -> None:
    for number in (1, 2, 3):
        add_round(folder, number)
    rounds = RunRounds(folder)
    rounds.look()
    folder.forget_after(1)
    rounds.look()
    assert [row["round"] for row in rounds.parts()["rounds/0"]] == [1]
    assert "auroc" not in rounds.rows[1]
    assert rounds.clinics["a"].answered == 1


@pytest.mark.parametrize("make", [scores, noised_scores])
def test_of_an_older_run_the_values_are_those_of_its_histograms(folder: RunFolder, make) -> None:
    found = make(np.random.default_rng(1), 2000, 0.2, skill=1.5)
    folder.append({"event": "validation", "round": 1, "histogram": found.to_lists(), "clinics": {}})
    rounds = RunRounds(folder)
    rounds.look()
    expected = metrics_of(found).auroc
    assert rounds.rows[1]["auroc"] == [expected.value, expected.low, expected.high]


@pytest.mark.parametrize("event", [{}, {"histogram": 3}, {"histogram": {"low": ["x"]}}, {"pooled": {"auroc": 3}}])
def test_a_damaged_event_leaves_a_gap(folder: RunFolder, event: dict[str, object]) -> None:
    folder.append({"event": "validation", "round": 1, "clinics": 7, **event})
    folder.append({"event": "round", "round": "x"})
    rounds = RunRounds(folder)
    rounds.look()
    assert rounds.parts() == {"rounds/0": [{"round": 1, "auroc": None, "auprc": None}]}
    json.dumps(rounds.parts())


def test_of_many_reasons_the_first_are_told_and_how_many_there_are(folder: RunFolder) -> None:
    reasons = {f"c{number}": "away" for number in range(50)}
    folder.append({"event": "round", "round": 1, "answered": [], "failed": reasons, "declined": {}})
    rounds = RunRounds(folder)
    rounds.look()
    failed = rounds.rows[1]["failed"]
    assert (len(failed), failed["…"], rounds.rows[1]["asked"]) == (7, "and 44 more", 50)
    assert rounds.clinics["c49"].failed == (1, "away")
