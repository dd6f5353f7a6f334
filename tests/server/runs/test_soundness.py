"""What a finished run tells besides its results: a loss that has risen, steps, a warm-up that never ends."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.study.protocol import FederationSpec, PrivacySpec, StudyProtocol, TrainingSpec
from melfed.server.cli.run_table import notes
from melfed.server.report.page import page
from melfed.server.runs.counts import Counts
from melfed.server.runs.soundness import planned_steps, warnings_of
from melfed.server.runs.summary import RoundSummary
from tests.server.fake_run import FakeRun


def rounds(*losses: float | None, failed: dict[str, str] | None = None) -> list[RoundSummary]:
    return [
        RoundSummary(
            round=number,
            train_loss=loss,
            validation=None,
            seconds=1.0,
            bytes_up=0,
            bytes_down=0,
            answered=("a",),
            failed=failed or {},
        )
        for number, loss in enumerate(losses, start=1)
    ]


def study(mode: str = "federated", rounds: int = 3, **training: object) -> StudyProtocol:
    spec = TrainingSpec.model_validate({"warmup_steps": 0, "batch_size": 10, **training})
    return StudyProtocol(training=spec, federation=FederationSpec(mode=mode, rounds=rounds))


def test_a_loss_that_rises_a_hundredfold_is_told_with_its_numbers() -> None:
    (line,) = warnings_of(study(), rounds(0.68, 0.61, 4_868_859.0, 70.0), {})
    assert line.startswith(
        "the training loss rose from 0.61 (round 2) to 4.869e+06 (round 3); the model is worth nothing"
    )


def test_a_loss_that_is_high_from_the_first_round_on_is_told_too() -> None:
    (line,) = warnings_of(study(), rounds(90.0), {})
    assert line.startswith("the training loss rose from 0.693 (an undecided model) to 90 (round 1)")
    # A positive weighs more, and so does the loss of a model that is undecided.
    assert not warnings_of(study(positive_weight=3.0), rounds(90.0), {})


@given(st.lists(st.floats(1e-9, 0.69), min_size=1, max_size=8))
def test_no_loss_below_that_of_an_undecided_model_is_told(losses: list[float]) -> None:
    assert not warnings_of(study(), rounds(*losses), {})


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told(loss: float) -> None:
    (line,) = warnings_of(study(), rounds(0.5, loss), {})
    assert line.startswith("the training loss of round 2 is not finite;")


def test_a_clinic_that_was_left_out_for_its_loss_is_told() -> None:
    reason = "clinic b, round 1: the training loss is not finite; lower training.learning_rate"
    (line,) = warnings_of(study(), rounds(0.5, 0.4, failed={"b": reason}), {})
    assert line == f"round 1 went on without b: {reason}"
    assert not warnings_of(study(), rounds(0.5, failed={"b": "offline"}), {})


def test_a_private_study_tells_no_loss() -> None:
    assert not warnings_of(study(), rounds(None, None), {})


def counts(**images: int) -> dict[str, Counts]:
    return {name: Counts(numbers={"train_images": number}) for name, number in images.items()}


def test_steps_are_those_of_each_clinic_and_of_all_images_in_the_central_baseline() -> None:
    clinics = counts(a=25, b=10, c=0)
    for mode in ("federated", "local"):
        assert planned_steps(study(mode), clinics) == {"a": 9, "b": 3, "c": 0}
    assert planned_steps(study("central"), clinics) == {"all": 12}
    private = study().model_copy(update={"privacy": PrivacySpec(unit="patient", epsilon=1.0, steps=2)})
    assert planned_steps(private, clinics) == {"a": 6, "b": 6, "c": 6}


def test_a_warm_up_that_is_longer_than_the_run_is_told() -> None:
    steps = {"a": 9, "b": 3, "c": 2, "d": 1, "e": 1}
    assert not warnings_of(study(warmup_steps=0), [], steps)
    (line,) = warnings_of(study(warmup_steps=3), [], steps)
    assert line.startswith(
        "training.learning_rate is never reached by b, c, d and 1 others: at most 3 steps in the whole run, and "
        "training.warmup_steps is 3"
    )
    (line,) = warnings_of(study("central", warmup_steps=12), [], {"all": 12})
    assert line.startswith("training.learning_rate is never reached by the run")


def test_warnings_are_the_last_lines_and_stand_at_the_head_of_the_report(tmp_path: Path) -> None:
    folder = FakeRun().write(tmp_path / "run")
    told = {"warnings": ("the <loss> rose",), "steps": {"a": 7, "b": 12}}
    summary = folder.summary().model_copy(update=told)
    assert notes(summary)[-1] == "warning: the <loss> rose"
    html = page(summary, folder.study(), {})
    assert html.index("Warning: the &lt;loss&gt; rose.") < html.index('id="result"')
    assert "7 to 12 steps at each clinic over the whole run, as planned" in html
    assert "Each training image is seen" in html
