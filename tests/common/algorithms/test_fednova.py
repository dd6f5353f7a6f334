"""FedNova minimises the weighted sum of losses, whatever the clinics' numbers of steps."""

import numpy as np
import pytest

from melfed.common.study.step_plan import rate_sum
from tests.common.algorithms.toys import BATCH, Point, bowl, federate, toy_study

IMAGES, MINIMA, RATE = (8, 56), (1.0, 0.0), 0.02
OPTIMUM = 8 / 64
"""Of (8 (x - 1)² + 56 x²) / 128, the sum weighted by images."""
LOSSES = [bowl(1.0, minimum) for minimum in MINIMA]
STEPS = [images // BATCH for images in IMAGES]


def fixed_point(weights: list[float]) -> float:
    """Where a round leads back to itself: a clinic's k steps take it 1 - (1 - η)ᵏ of the way to its minimum."""
    pull = [w * (1 - (1 - RATE) ** steps) for w, steps in zip(weights, STEPS, strict=True)]
    return float(np.dot(pull, MINIMA) / sum(pull))


def test_averaging_minimises_another_objective_and_fednova_does_not() -> None:
    averaged = federate(toy_study("fedavg", 150, RATE), Point(), LOSSES, IMAGES).model["x"]
    assert averaged == pytest.approx([fixed_point([8.0, 56.0])], abs=1e-4)
    assert abs(float(averaged[0]) - OPTIMUM) > 0.09, "the clinic with more steps counts for more than its images"
    found = federate(toy_study("fednova", 150, RATE), Point(), LOSSES, IMAGES).model["x"]
    normalised = fixed_point([8 / (RATE * STEPS[0]), 56 / (RATE * STEPS[1])])
    assert found == pytest.approx([normalised], abs=1e-4)
    assert abs(normalised - OPTIMUM) < 0.008, "what is left vanishes with the learning rate"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_round_is_the_paper_s_equation(momentum: float) -> None:
    study = toy_study("fednova", 1, RATE, momentum=momentum)
    alone = [
        federate(toy_study("fedavg", 1, RATE, momentum=momentum), Point(), [loss], [images]).model["x"][0]
        for loss, images in zip(LOSSES, IMAGES, strict=True)
    ]
    sums = [rate_sum(study, images, 1) for images in IMAGES]
    shares = [images / sum(IMAGES) for images in IMAGES]
    effective = np.dot(shares, sums)
    expected = -effective * sum(p * (0 - y) / total for p, y, total in zip(shares, alone, sums, strict=True))
    assert federate(study, Point(), LOSSES, IMAGES).model["x"] == pytest.approx([expected], rel=1e-5)


def test_with_as_many_steps_everywhere_it_is_federated_averaging() -> None:
    one, other = (
        federate(toy_study(name, 5, RATE), Point(), LOSSES, (24, 24)).model["x"] for name in ("fednova", "fedavg")
    )
    assert one == pytest.approx(other, rel=1e-5)
