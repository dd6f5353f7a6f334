"""The sum of a round's learning rates; the learning rate itself is tested by the optimiser that uses it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.training.optimizer import LocalOptimizer
from melfed.common.study.step_plan import Place, rate_sum, schedule_factor
from tests.client.small import small_study


@given(
    st.integers(1, 60),
    st.sampled_from([0.25, 1.0, 1.5]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from(["constant", "cosine", "one_cycle"]),
    st.integers(0, 6),
)
@settings(max_examples=25, deadline=None)
def test_it_is_how_far_a_constant_gradient_leads(
    images: int, epochs: float, number: int, momentum: float, schedule: str, warmup: int
) -> None:
    """Against torch's own optimiser, a step after the other."""
    training = {"optimizer": "sgd", "momentum": momentum, "weight_decay": 0.0, "gradient_norm": None, "batch_size": 8}
    study = small_study(
        training={**training, "schedule": schedule, "warmup_steps": warmup, "local_epochs": epochs},
        federation={"rounds": 3},
    )
    visits = [
        max(round(n * epochs * images), round((n - 1) * epochs * images) + 1) - round((n - 1) * epochs * images)
        for n in range(1, number + 1)
    ]
    *earlier, steps = [-(-count // 8) for count in visits]
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = LocalOptimizer({"x": parameter}, study)
    for step in range(steps):
        parameter.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step(Place(number, step, steps, sum(earlier)))
    assert rate_sum(study, images, number) == pytest.approx(-float(parameter.detach()), rel=1e-9)


def test_in_a_private_study_it_is_of_so_many_steps_whatever_the_clinic() -> None:
    privacy = {"unit": "patient", "noise_multiplier": 1.0, "recipe": "manual", "steps": 4}
    study = small_study(training={"optimizer": "sgd", "momentum": 0.0}, federation={"rounds": 3}, privacy=privacy)
    assert rate_sum(study, 1, 2) == rate_sum(study, 999, 2) == pytest.approx(4 * study.training.learning_rate)


def test_the_schedule_ends_at_its_ends() -> None:
    assert schedule_factor("one_cycle", 0.0) == pytest.approx(1 / 25)
    assert schedule_factor("one_cycle", 0.3) == 1.0
    assert schedule_factor("cosine", 1.0) == pytest.approx(0.0)
