"""The map from logits to probabilities: Platt's, or with bends where the counts show them; or why there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from melfed.common.metrics.calibration_map import Calibration, Lacking, calibration_map
from melfed.common.metrics.histogram import ScoreHistogram, sigmoid
from tests.common.metrics.normal_scores import exact, noised, scores


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.1, 3.0), (1e4, -1e5)])
def test_it_undoes_a_stretch_and_a_shift(scale: float, shift: float) -> None:
    x, y = scores(2000, 8000)
    found = calibration_map(exact(scale * x + shift, y))
    assert isinstance(found, Calibration)
    assert found.method == "platt"
    assert found.slope * scale == pytest.approx(1, abs=0.1)
    assert found.logit(scale * 1.0 + shift) == pytest.approx(1, abs=0.2)
    low, high = found.interval(scale * 1.0 + shift)
    assert low < float(sigmoid(1.0)) < high, "the uncertainty that is told holds the truth"


def test_noise_makes_it_less_certain_and_does_not_lead_it_astray() -> None:
    x, y = scores(1500, 6000)
    known, guessed = calibration_map(exact(2 * x, y)), calibration_map(noised(2 * x, y, 4.0))
    assert isinstance(known, Calibration)
    assert isinstance(guessed, Calibration)
    assert guessed.covariance[1][1] > 1.2 * known.covariance[1][1]
    assert abs(guessed.slope - known.slope) < 4 * guessed.covariance[1][1] ** 0.5


def test_where_the_odds_bend_clearly_so_does_the_map_and_it_still_rises() -> None:
    x, y = scores(4000, 16000)
    bent = calibration_map(exact(np.where(x > -1, 3 * x + 2, x), y))
    assert isinstance(bent, Calibration)
    assert bent.method == "monotone"
    grid = np.linspace(-12, 20, 400)
    assert (np.diff(bent.logit(grid)) > 0).all()
    assert abs(float(bent.logit(5.0)) - 1) < 0.25 < abs(float(bent.logit(5.0)) - 5)


def test_scores_that_fall_with_the_risk_or_tell_nothing_give_no_map() -> None:
    x, y = scores(200, 800)
    flat = calibration_map(exact(np.random.default_rng(1).normal(size=len(y)), y))
    upside_down = calibration_map(exact(-x, y))
    same = calibration_map(exact(np.zeros(4), np.array([0.0, 1.0, 0.0, 1.0])))
    for found in (flat, upside_down, same):
        assert isinstance(found, Lacking)
    assert isinstance(upside_down, Lacking)
    assert upside_down.needed is None
    assert str(same) == "all scores are the same"


def test_what_is_hidden_by_noise_says_how_many_melanomas_would_show() -> None:
    found = calibration_map(noised(*scores(20, 400), 8.0))
    assert isinstance(found, Lacking)
    assert found.needed is not None
    assert str(found).startswith("the noise hides a class; about 6")
    assert str(found).endswith("with a melanoma would be needed in the part")
    assert str(calibration_map(ScoreHistogram.empty())) == "validation has images of one class alone"


def test_separated_scores_have_a_map_nonetheless() -> None:
    found = calibration_map(exact(np.array([-2.0, -1.5, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0])))
    assert isinstance(found, Calibration | Lacking)


@pytest.mark.parametrize(
    "content",
    [
        {"slope": 0.0},
        {"slope": float("nan")},
        {"slope": 1.0, "knots": (1.0,)},
        {"slope": 1.0, "knots": (1.0, 1.0), "bends": (0.1, 0.1)},
        {"slope": 1.0, "knots": (1.0,), "bends": (-1.0,)},
        {"slope": 1.0, "covariance": ((1.0,),)},
    ],
)
def test_a_map_that_is_none_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate({"intercept": 0.0, **content})


@given(
    slope=st.floats(0.1, 10),
    knots=st.lists(st.floats(-5, 5), max_size=4, unique=True).map(sorted),
    parts=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
)
def test_a_map_never_changes_the_order_and_travels_as_json(
    slope: float, knots: list[float], parts: list[float]
) -> None:
    slopes = [slope, *parts[: len(knots)]]
    made = Calibration(slope=slope, intercept=0.3, knots=tuple(knots), bends=tuple(np.diff(slopes).tolist()))
    grid = np.linspace(-20, 20, 101)
    assert (np.diff(made.logit(grid)) > 0).all()
    assert Calibration.model_validate_json(made.model_dump_json()) == made
    low, high = made.interval(1.0)
    assert low == high == float(made.probability(1.0)), "nobody has said how uncertain it is"
