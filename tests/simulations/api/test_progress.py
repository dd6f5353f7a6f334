"""The progress of a run: a line a round in a log, bars on a terminal, and never an exception."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from melfed.common.study.recipe import Choice
from melfed.server.federation.observer import Observer
from melfed.server.runs.counts import Counts
from melfed.simulations.api import progress
from melfed.simulations.api.progress import RunProgress, print_choices

IMAGES = {"north": 30, "south": 10}
COUNTS = {name: Counts(numbers={}) for name in IMAGES}


def console(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    written = io.StringIO()
    size = {"width": 100, "height": 20} if terminal else {"soft_wrap": True}
    monkeypatch.setattr(
        progress, "errors", Console(file=written, highlight=False, force_terminal=terminal, _environ={}, **size)
    )
    return written


def completed(shown: RunProgress) -> tuple[float, float | None]:
    task = shown._progress.tasks[-1]
    return task.completed, task.total


def a_run(observer: Observer, first: int = 1, rounds: int = 2) -> None:
    observer.watch(lambda: {"north": 5})
    observer.started(COUNTS, first, rounds)
    for number in range(first, rounds + 1):
        observer.round_started(number, ["north", "south"])
        observer.waiting()
        observer.replied("south", None)
        observer.replied("north", None)
        observer.round_finished(number, 0.51234 / number, 12.34)
    observer.evaluating(["north", "south"])
    observer.replied("north", None)


def test_without_a_terminal_there_is_a_line_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=False)
    with RunProgress(IMAGES) as shown:
        a_run(shown)
    assert written.getvalue().splitlines() == ["round 1: loss 0.5123, 12.3 s", "round 2: loss 0.2562, 12.3 s"]


def test_a_resume_and_a_failure_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=False)
    with RunProgress(IMAGES) as shown:
        a_run(shown, first=2)
        shown.replied("[bold]south", "no answer within 900 s [/x]")
    lines = written.getvalue().splitlines()
    assert lines[0] == "going on from round 1 of 2"
    assert lines[-1] == "clinic [bold]south: no answer within 900 s [/x]"
    assert len(lines) == 3


def test_what_is_to_be_known_is_a_line_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=False)
    with RunProgress(IMAGES) as shown:
        shown.noticed("clinic [bold]south: its process was ended [/x]; asked again")
    assert written.getvalue().splitlines() == ["clinic [bold]south: its process was ended [/x]; asked again"]


def test_a_private_round_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        written = console(monkeypatch, terminal=terminal)
        with RunProgress(IMAGES) as shown:
            shown.started(COUNTS, 1, 2)
            shown.round_started(1, ["north"])
            shown.round_finished(1, None, 12.13)
        assert "loss" not in written.getvalue()
        assert terminal or written.getvalue().splitlines() == ["round 1: 12.1 s"]


def test_a_clinic_that_declines_is_told_of_once_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=False)
    with RunProgress(IMAGES) as shown:
        for number, reason in ((1, "ε [spent]"), (2, "ε [spent]"), (3, "another study")):
            shown.round_started(number, ["north", "south"])
            shown.replied("north", reason, True)
            shown.replied("south", "failed", declined=False)
    lines = written.getvalue().splitlines()
    assert [line for line in lines if "declines" in line] == [
        "clinic north declines: ε [spent]",
        "clinic north declines: another study",
    ]
    assert lines.count("clinic south: failed") == 3


def test_a_clinic_that_declined_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=True)
    with RunProgress(IMAGES) as shown:
        shown.started(COUNTS, 1, 1)
        shown.round_started(1, ["north", "south"])
        shown.replied("north", "its budget is spent", declined=True)
        assert completed(shown) == (30, 40)


def test_choices_are_printed_with_their_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=False)
    print_choices((Choice("privacy.steps", 40, "few [patients]"), Choice("privacy.sampling_rate", 0.5, "many")))
    assert (
        written.getvalue() == "recipe: privacy.steps = 40: few [patients]\nrecipe: privacy.sampling_rate = 0.5: many\n"
    )
    print_choices(())
    assert written.getvalue().count("\n") == 2


def test_on_a_terminal_there_are_bars_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    written = console(monkeypatch, terminal=True)
    with RunProgress(IMAGES) as shown:
        a_run(shown)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert "rounds" in text
    assert "loss 0.256" in text
    assert "evaluating" in text
    assert "12.3 s" not in text


def test_the_bar_counts_images_of_the_current_round(monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=True)
    reading: dict[str, int] = {}
    with RunProgress({name: 2.0 * images for name, images in IMAGES.items()}) as shown:
        shown.watch(lambda: reading)
        shown.started(COUNTS, 1, 2)
        shown.round_started(1, ["north", "south"])
        assert completed(shown) == (0, 80)
        reading.update(north=16)
        shown.waiting()
        assert completed(shown) == (16, 80)
        reading.update(north=60, south=10)
        shown.waiting()
        assert completed(shown) == (70, 80)
        shown.replied("south", None)
        assert completed(shown) == (80, 80)
        shown.replied("north", None)
        assert completed(shown) == (80, 80)
        # North has not begun with the second round: what it wrote last is of the first.
        shown.round_started(2, ["north", "south"])
        reading.update(south=8)
        shown.waiting()
        assert completed(shown) == (8, 80)
        reading.update(north=4)
        shown.waiting()
        reading.update(north=60)
        shown.waiting()
        assert completed(shown) == (68, 80)


def test_a_cohort_is_the_whole_of_its_round(monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=True)
    with RunProgress({name: 0.5 * images for name, images in IMAGES.items()}) as shown:
        shown.started(COUNTS, 1, 2)
        shown.round_started(1, ["north"])
        assert completed(shown) == (0, 15)
        shown.replied("north", "failed")
        assert completed(shown) == (15, 15)


def test_the_central_baseline_is_never_beyond_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=True)
    with RunProgress(IMAGES) as shown:
        shown.started(COUNTS, 1, 1)
        shown.round_started(1, ["north", "south"])
        shown.watch(lambda: {"all": 40})
        for name in ("north", "south"):
            shown.waiting()
            assert completed(shown) == (40, 40)
            shown.replied(name, None)
        assert completed(shown) == (40, 40)


names = st.sampled_from(["north", "south", "unknown", "[bold]"])
calls = st.one_of(
    st.tuples(st.just("started"), st.just(COUNTS), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.just("watch"), st.builds(lambda content: lambda: content, st.dictionaries(names, st.integers(0, 99)))),
    st.tuples(st.just("round_started"), st.integers(1, 4), st.lists(names, max_size=3)),
    st.tuples(st.just("replied"), names, st.none() | st.just("it [failed]"), st.booleans()),
    st.tuples(st.just("waiting")),
    st.tuples(st.just("round_finished"), st.integers(1, 4), st.none() | st.floats(), st.floats(0, 1e9)),
    st.tuples(st.just("evaluating"), st.lists(names, max_size=3)),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(calls, max_size=12), st.booleans(), st.booleans())
def test_no_order_of_calls_is_an_error(told: list[tuple[object, ...]], terminal: bool, started: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        console(monkeypatch, terminal=terminal)
        shown = RunProgress(IMAGES)
        if started:
            shown.__enter__()
        try:
            for name, *arguments in told:
                getattr(shown, name)(*arguments)
        finally:
            shown.__exit__(None, None, None)


def test_an_error_inside_stops_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    console(monkeypatch, terminal=True)
    shown = RunProgress(IMAGES)

    def fail() -> None:
        with shown:
            assert shown._progress.live.is_started
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert not shown._progress.live.is_started
