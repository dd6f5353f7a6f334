"""SCAFFOLD finds the minimum of the sum where federated averaging ends beside it."""

import numpy as np
import pytest

from melfed.common.algorithms.algorithm import Begun, ServerRound
from melfed.common.algorithms.scaffold import correction, keep, next_control
from tests.common.algorithms.toys import Point, bowl, federate, toy_study

STEEPNESS, MINIMA, IMAGES = (1.0, 9.0), (0.0, 1.0), (80, 80)
OPTIMUM = 9.0 / 10.0
"""Of (x² + 9 (x - 1)²) / 2."""
LOSSES = [bowl(a, b) for a, b in zip(STEEPNESS, MINIMA, strict=True)]


def test_federated_averaging_ends_where_the_drift_takes_it() -> None:
    """After K steps of rate η a clinic is 1 - (1 - ηa)ᴷ of the way to its own minimum: weights of the fixed point."""
    reached = [1 - (1 - 0.1 * a) ** 10 for a in STEEPNESS]
    expected = np.dot(reached, MINIMA) / sum(reached)
    found = federate(toy_study("fedavg", 40), Point(), LOSSES, IMAGES).model["x"]
    assert found == pytest.approx([expected], abs=1e-4)
    assert abs(expected - OPTIMUM) > 0.2


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("images", [(80, 80), (16, 80)])
def test_scaffold_ends_at_the_optimum(momentum: float, images: tuple[int, int]) -> None:
    """Whatever the clinics' numbers of steps, and with momentum too; means are by images."""
    optimum = images[1] * 9 / (images[0] + 9 * images[1])
    ended = federate(toy_study("scaffold", 150, rate=0.02, momentum=momentum), Point(), LOSSES, images)
    assert ended.model["x"] == pytest.approx([optimum], abs=2e-3)
    # There each clinic's control variate is its gradient, and the server's is 0.
    for kept, a, b in zip(ended.kept, STEEPNESS, MINIMA, strict=True):
        assert kept["x"] == pytest.approx([a * (optimum - b)], abs=2e-2)
    assert ended.control["x"] == pytest.approx([0.0], abs=2e-2)


def test_with_one_clinic_a_round_it_gets_there_too_and_averaging_does_not() -> None:
    def turns(number: int) -> list[int]:
        return [number % 2]

    ended = federate(toy_study("scaffold", 400, rate=0.02), Point(), LOSSES, (16, 16), asked=turns)
    assert ended.model["x"] == pytest.approx([OPTIMUM], abs=5e-3)
    plain = federate(toy_study("fedavg", 400, rate=0.02), Point(), LOSSES, (16, 16), asked=turns)
    assert abs(float(plain.model["x"][0]) - OPTIMUM) > 0.01


def test_the_server_s_control_variate_is_the_mean_of_the_clinics() -> None:
    """By images, though not all of them answer, and though nothing but models travels."""
    images = (16, 48)
    ended = federate(
        toy_study("scaffold", 5, rate=0.02), Point(), LOSSES, images, asked=lambda n: [0, 1] if n < 4 else [1]
    )
    mean = np.average([kept["x"] for kept in ended.kept], axis=0, weights=images)
    assert ended.control["x"] == pytest.approx(mean, rel=1e-4)


def test_the_paper_s_lines() -> None:
    x, c, own = (np.array([value], np.float32) for value in (1.0, 0.25, -0.5))
    begun = Begun({"x": x}, {"x": c}, {"x": own})
    assert correction(begun)["x"] == c - own
    assert keep(begun, {"x": x - 0.6}, 0.2)["x"] == pytest.approx(-0.5 - 0.25 + 0.6 / 0.2)
    first = Begun({"x": x}, {"x": c}, {})
    assert correction(first)["x"] == c
    ended = ServerRound({"x": x}, {"x": np.array([3.0], np.float32)}, 0.2, 0.5, {"x": c})
    assert next_control(ended)["x"] == pytest.approx(0.25 + 0.5 * (3.0 - 0.25))
