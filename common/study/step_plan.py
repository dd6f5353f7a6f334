"""How many optimiser steps a study plans for whoever has so many training images, and the learning rate of each.

Both follow from the study and the step's place in the run alone, before anybody trains. So whoever is killed, joins
late or misses rounds goes on at the rate that the run has reached; and the coordinator knows how far a clinic's steps
reach.
"""

import math
from dataclasses import dataclass

from melfed.common.algorithms import algorithm_of
from melfed.common.study.protocol import StudyProtocol, TrainingSpec


def stretch(images: int, epochs: float, round_number: int) -> tuple[int, int]:
    """Return the first image visit of a round, and the first after it, counted over the run.

    Args:
        images: in training, at least 1.
        epochs: passes over them a round; a part of a pass is fine, but a round visits one image at least.
        round_number: 1-based.
    """
    first, last = round((round_number - 1) * epochs * images), round(round_number * epochs * images)
    return first, max(last, first + 1)


def planned_steps(images: int, spec: TrainingSpec, rounds: int) -> int:
    """Return how many steps the first `rounds` rounds of a study without privacy take."""
    stretches = (stretch(images, spec.local_epochs, number) for number in range(1, rounds + 1))
    return sum(-(-(last - first) // spec.batch_size) for first, last in stretches)


def whole_run(images: int, study: StudyProtocol, rounds: int | None = None) -> int:
    """Return how many steps a run of a study takes; 0 of no images in a study without privacy.

    Args:
        images: in training.
        study: what is run.
        rounds: that are trained; None: all that the study plans.
    """
    rounds = study.federation.rounds if rounds is None else rounds
    if study.privacy is not None:
        return study.privacy.steps * rounds
    return planned_steps(images, study.training, rounds) if images else 0


def trainings(study: StudyProtocol) -> int:
    """Return how many models a clinic trains a round: the global one, and those that stay with it."""
    return algorithm_of(study.federation.algorithm).trainings + study.evaluation.local_baseline


@dataclass(frozen=True)
class Place:
    """Where in the run a step is.

    Attributes:
        round_number: 1-based.
        step: 0-based, within the round.
        steps: of the round.
        before: of all rounds before it, as the study plans them for this clinic: those that it missed count too.
    """

    round_number: int
    step: int
    steps: int
    before: int


def learning_rate(study: StudyProtocol, place: Place) -> float:
    """Return the learning rate of a step: the schedule over all rounds, times the warm-up over the first steps."""
    spec = study.training
    position = (place.round_number - 1 + (place.step + 0.5) / place.steps) / study.federation.rounds
    warmup = min(1.0, (place.before + place.step + 1) / (spec.warmup_steps + 1))
    return spec.learning_rate * schedule_factor(spec.schedule, position) * warmup


def schedule_factor(schedule: str, position: float) -> float:
    """Return the fraction of the peak learning rate at a position in [0, 1] of the whole run.

    `one_cycle` rises from 1/25 over the first 30 % and falls to nothing, both on a cosine (Smith & Topin, arXiv
    1708.07120, in the two-phase form that is common now); `cosine` falls from 1 to 0.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * position))
    low, turn = 1 / 25, 0.3
    if position < turn:
        return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * position / turn))
    return 0.5 * (1 + math.cos(math.pi * (position - turn) / (1 - turn)))


def rate_sum(study: StudyProtocol, images: int, round_number: int) -> float:
    """Return how far a round's steps carry a constant gradient of 1, > 0: the sum of their learning rates.

    With momentum ρ the gradient of a step acts in all later ones of the round as well, so that step k (from 1) counts
    (1 - ρᵏ) / (1 - ρ) times: η‖a‖₁ of Wang et al., arXiv 2007.07481.

    Args:
        study: of sgd.
        images: that the clinic trains on; of no account in a private study.
        round_number: 1-based.
    """
    spec, momentum = study.training, study.training.momentum
    if study.privacy is None:
        first, last = stretch(images, spec.local_epochs, round_number)
        steps, before = -(-(last - first) // spec.batch_size), planned_steps(images, spec, round_number - 1)
    else:
        steps = study.privacy.steps
        before = (round_number - 1) * steps
    places = (Place(round_number, step, steps, before) for step in range(steps))
    return math.fsum(
        learning_rate(study, place) * (1 - momentum ** (place.step + 1)) / (1 - momentum) for place in places
    )
