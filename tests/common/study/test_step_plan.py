"""The steps that a study plans are those that its rounds take."""

import math

from hypothesis import given
from hypothesis import strategies as st

from melfed.client.training.plain import round_visits
from melfed.common.study.step_plan import planned_steps, trainings, whole_run
from tests.client.small import small_study


@given(st.integers(1, 40), st.sampled_from([0.01, 0.1, 1 / 3, 1.0, 2.5]), st.integers(0, 9), st.integers(1, 16))
def test_planned_steps_are_the_steps_that_rounds_take(images: int, epochs: float, rounds: int, batch: int) -> None:
    spec = small_study(training={"local_epochs": epochs, "batch_size": batch}).training
    taken = [math.ceil(len(round_visits(images, epochs, number, 0, "a")) / batch) for number in range(1, rounds + 1)]
    assert planned_steps(images, spec, rounds) == sum(taken)


def test_a_private_run_takes_the_steps_that_its_study_states_whoever_is_there() -> None:
    private = {"unit": "patient", "noise_multiplier": 1.0, "recipe": "manual", "steps": 3}
    study = small_study(privacy=private, federation={"rounds": 5})
    assert whole_run(0, study) == whole_run(1000, study) == 15
    assert (whole_run(0, small_study()), whole_run(20, small_study())) == (0, 2 * 3)


def test_a_clinic_trains_a_model_more_for_each_that_stays_with_it() -> None:
    assert trainings(small_study()) == 1
    assert trainings(small_study(federation={"algorithm": "ditto"})) == 2
    assert trainings(small_study(evaluation={"local_baseline": True})) == 2
