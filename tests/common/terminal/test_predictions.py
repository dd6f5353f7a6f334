"""What is printed of single pictures."""

import json
from pathlib import Path

import pytest
import typer

from melfed.common.export.predictions import Prediction
from melfed.common.terminal.predictions import NOT_CALIBRATED, tell_predictions

LIKE, UNLIKE = (Prediction(Path(f"{n}.png"), 0.25, logit=-1.1, unlike=u) for n, u in (("like", 0.4), ("unlike", 2.5)))
NONE = Prediction(Path("none.png"), None, "no readable image")
CALIBRATED = Prediction(Path("calibrated.png"), 0.5, logit=0.3, low=0.4, high=0.6, unlike=0.4, calibrated=True)
PLAIN = Prediction(Path("plain.png"), 0.75, logit=1.1)


def test_a_picture_unlike_all_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    tell_predictions([LIKE, UNLIKE], as_json=False)
    said = capsys.readouterr()
    assert said.out == "0.2500\tlike.png\n0.2500\tunlike.png\n"
    warned = [line for line in said.err.splitlines() if "warning" in line]
    assert len(warned) == 1
    assert "unlike.png: unlike anything this model has seen (score 2.50; from 1 on)" in warned[0]
    assert "no statistics" not in said.err


def test_a_model_that_cannot_tell_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell_predictions([PLAIN, PLAIN], as_json=True)
    said = capsys.readouterr()
    assert [row["unlike"] for row in json.loads(said.out)] == [None, None]
    assert said.err.count("carries no statistics of what it has seen") == 1
    assert "warning" not in said.err


def test_what_is_not_calibrated_says_so_once_and_whose_model_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tell_predictions([LIKE, UNLIKE], as_json=False, clinic="north")
    whose = "; no calibration map is made of clinic north's own model"
    assert capsys.readouterr().err.count(f"note: {NOT_CALIBRATED}{whose}") == 1
    tell_predictions([PLAIN], as_json=True)
    said = capsys.readouterr()
    assert NOT_CALIBRATED in said.err
    assert "own model" not in said.err
    assert json.loads(said.out)[0]["calibrated"] is False
    tell_predictions([CALIBRATED], as_json=True)
    said = capsys.readouterr()
    assert NOT_CALIBRATED not in said.err
    assert json.loads(said.out)[0]["calibrated"] is True


def test_what_is_no_picture_is_an_error_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left:
        tell_predictions([NONE, LIKE], as_json=False)
    said = capsys.readouterr()
    assert left.value.exit_code == 4
    assert said.out == "0.2500\tlike.png\n"
    assert "error: none.png: no readable image" in said.err
