"""Steps of a private head: that the model of them is what steps do, and that its choice is the least."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.study.head_steps import (
    AVERAGES,
    CURVATURE,
    ENOUGH,
    LOGITS,
    MOMENTA,
    ROUNDS,
    SPECTRUM,
    HeadSteps,
    Room,
    _all_steps,
    best_steps,
    rates,
    reached,
)

ROOM = Room(features=64, patients=1500, clinics=4, mu=0.68)


def simulated(room: Room, steps: HeadSteps, random: np.random.Generator, repeats: int) -> float:
    """The loss above the least of heads that take these steps, one after another, with drawn noise."""
    curvature = CURVATURE * np.array(SPECTRUM) / room.features
    share = room.start_share
    distance = np.full(len(SPECTRUM), LOGITS**2)
    if share:
        sensitivity = 3 * (1 + CURVATURE**2 * LOGITS**2 * room.features / 2)
        noise = sensitivity / (share * (room.mu * room.patients) ** 2 * room.clinics) / curvature**2
        distance = 1 / (1 / distance + 1 / noise)
    head = np.sqrt(distance) * random.standard_normal((repeats, len(SPECTRUM)))
    std = math.sqrt(steps.rounds / (1 - share)) / (room.mu * room.patients * math.sqrt(room.clinics))
    moved, models = np.zeros_like(head), []
    for _ in range(steps.rounds):
        gradient = curvature * head + std * random.standard_normal(head.shape)
        moved = steps.momentum * moved - steps.rate * gradient
        head = head + moved
        models.append(head)
    last = np.mean(models[-max(1, round(steps.average * steps.rounds)) :], axis=0)
    return float((curvature * last**2).sum(axis=1).mean())


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("average", AVERAGES[::3])
def test_the_expected_loss_is_that_of_drawn_noise(momentum: float, average: float, share: float) -> None:
    room = Room(64, 300, 3, 0.7, share)
    steps = next(
        steps
        for steps in _all_steps(room, 20)
        if (steps.momentum, steps.average, steps.rate) == (momentum, average, 2.0)
    )
    assert simulated(room, steps, np.random.default_rng(0), 20_000) == pytest.approx(steps.loss, rel=0.05)


def test_the_best_steps_are_of_the_fewest_rounds_that_are_nearly_the_least() -> None:
    chosen = best_steps(ROOM)
    losses = {rounds: min(steps.loss for steps in _all_steps(ROOM, rounds)) for rounds in ROUNDS}
    assert losses[chosen.rounds] == chosen.loss <= ENOUGH * min(losses.values())
    assert all(loss > ENOUGH * min(losses.values()) for rounds, loss in losses.items() if rounds < chosen.rounds)


@given(
    st.integers(2, 300), st.integers(1, 10**6), st.integers(1, 100), st.floats(0.01, 5), st.sampled_from([0.0, 0.15])
)
@settings(deadline=None, max_examples=15)
def test_more_of_anything_public_is_never_worse(
    features: int, patients: int, clinics: int, mu: float, share: float
) -> None:
    # At most as far from the least as the rule allows itself.
    worst = best_steps(Room(features, patients, clinics, mu, share)).loss
    for better in (
        Room(features, 2 * patients, clinics, mu, share),
        Room(features, patients, 2 * clinics, mu, share),
        Room(features, patients, clinics, 2 * mu, share),
    ):
        assert best_steps(better).loss <= ENOUGH * worst


def test_more_privacy_takes_fewer_or_shorter_steps() -> None:
    far = [best_steps(Room(64, 1500, 4, mu)) for mu in (0.05, 0.25, 0.68, 1.6)]
    travelled = [steps.rounds * steps.rate / (1 - steps.momentum) for steps in far]
    assert travelled == sorted(travelled)
    assert len(set(travelled)) > 2


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_where_a_head_is_after_steps_is_where_drawn_ones_are(share: float) -> None:
    room, steps = Room(64, 300, 3, 0.7, share), HeadSteps(20, 2.0, 0.9, 0.5, 0.0)
    found, random, repeats = reached(room, steps), np.random.default_rng(0), 200_000
    curvature = CURVATURE / 64
    wanted = LOGITS
    start = np.zeros(repeats)
    if share:
        noise = 3 * (1 + CURVATURE**2 * LOGITS**2 * 64 / 2) / (share * (0.7 * 300) ** 2 * 3) / curvature**2
        kept = LOGITS**2 / (LOGITS**2 + noise)  # what a solver that shrinks as it should keeps of what it sees
        start = kept * (wanted + math.sqrt(noise) * random.standard_normal(repeats))
    head, moved, models = start, np.zeros(repeats), []
    std = math.sqrt(20 / (1 - share)) / (0.7 * 300 * math.sqrt(3))
    for _ in range(20):
        moved = 0.9 * moved - 2.0 * (curvature * (head - wanted) + std * random.standard_normal(repeats))
        head = head + moved
        models.append(head)
    last = np.mean(models[-10:], axis=0)
    assert last.mean() / wanted == pytest.approx(found.part, abs=0.02)
    assert last.std() == pytest.approx(found.noise, rel=0.03)


def test_no_rate_passes_the_head_in_one_round() -> None:
    assert max(rates(64)) == 8.0
    assert max(rates(50)) <= math.sqrt(50) < math.sqrt(2) * max(rates(50))
    assert rates(1)


def test_stated_rounds_are_the_rounds() -> None:
    assert best_steps(ROOM, (7,)).rounds == 7
