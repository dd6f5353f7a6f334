from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.server.report.charts import LEFT, RIGHT, WIDTH, Axis, Chart, drawing, nice_axis, unit_axis


@settings(deadline=None, max_examples=200)
@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5))
def test_ticks_are_few_even_and_inside(low: float, span: float) -> None:
    axis = nice_axis(low, low + span, "x")
    places = [value for value, _ in axis.ticks]
    steps = [b - a for a, b in pairwise(places)]
    assert 2 <= len(places) <= 6
    assert all(step == pytest.approx(steps[0]) for step in steps)
    assert all(axis.low - span * 1e-6 <= place <= axis.high + span * 1e-6 for place in places)
    assert len({words for _, words in axis.ticks}) == len(places)
    assert all(float(words) == pytest.approx(value, abs=1e-9) for value, words in axis.ticks)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 1000), st.integers(0, 100_000))
def test_rounds_have_whole_ticks(first: int, more: int) -> None:
    axis = nice_axis(first, first + more, "Round", whole=True)
    assert axis.ticks
    assert all(value == int(value) and words == str(int(value)) for value, words in axis.ticks)


def test_a_single_value_is_in_the_middle() -> None:
    axis = nice_axis(3, 3, "Round", whole=True)
    assert axis.place(3) == 0.5
    assert axis.ticks == ((3, "3"),)


def test_places_and_pixels() -> None:
    chart = Chart(unit_axis("x"), Axis(0, 10, (), "y"), top=10, height=100)
    assert chart.at(0, 0) == (LEFT, 110)
    assert chart.at(1, 10) == (WIDTH - RIGHT, 10)
    assert chart.at(7, -3) == (WIDTH - RIGHT, 110)  # outside: at the edge, never over another figure


def test_a_drawing_holds_its_marks_and_speaks() -> None:
    chart = Chart(unit_axis("across"), unit_axis("up"), height=100)
    chart.line([(0, 0), (1, 1)], "auroc")
    chart.dot(0.5, 0.5, "auroc", "half & half")
    image = drawing(chart, description='a "chart"')
    assert f'points="{LEFT},110 {WIDTH - RIGHT},10"' in image
    assert "<title>half &amp; half</title>" in image
    assert 'role="img" aria-label="a &quot;chart&quot;"' in image
