"""Rounds, rate, momentum and average of a private study of a head on whitened features: by public quantities alone.

Near its optimum the loss of such a head is quadratic. Along a feature of variance q/d (q is 1 for the public images
that whitened it, and another at other clinics) its curvature is λ = κ q/d. Steps of the study's own kind are linear in
that model: what is left of the distance to the optimum after so many rounds, and how much of each step's noise, follow
from the recursion w ← w + m, m ← β m - η (λ w + noise), and from the mean of the last models. With the noise that ε
leaves to each step the loss above the least is

    Σ λ (left² c² + Σ response² · T / (μ² (N √K)²))

for T steps, N patients at each of K clinics, μ of the Gaussian mechanism that all steps are together, and a head whose
logits have the standard deviation c. `best_steps` takes the least of a grid, and of those within `ENOUGH` of it one
with the fewest rounds, since each is a message a clinic.

No clinic's images are in it. `CURVATURE` is the mean of p (1 - p) of a head with logits of that spread, `LOGITS` the
spread at which two normal classes have an AUROC of 0.87, and `SPECTRUM` how the variances of whitened features spread
at another source than those that whitened them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CURVATURE: Final = 0.2
LOGITS: Final = 1.6
SPECTRUM: Final = (0.1, 0.3, 0.6, 1.0, 3.0)
ENOUGH: Final = 1.05
ROUNDS: Final = (10, 20, 30, 40, 60)
MOMENTA: Final = (0.0, 0.5, 0.9)
AVERAGES: Final = (0.0, 0.25, 0.5, 0.75)
SENSITIVITY: Final = math.sqrt(3.0)
"""Of the moments from which a head is solved (`melfed.common.moments.noisy_moments`)."""


@dataclass(frozen=True)
class Room:
    """What a study leaves to the steps of a head.

    Attributes:
        features: d.
        patients: N, at each clinic.
        clinics: K.
        mu: of the one Gaussian mechanism that all that is learnt from may be.
        start_share: part of the squared μ of the moments that a start is solved from; 0: the start tells nothing.
    """

    features: int
    patients: int
    clinics: int
    mu: float
    start_share: float = 0.0


@dataclass(frozen=True)
class HeadSteps:
    """One step a round of clipped gradients: how many, and how they go into the head.

    Attributes:
        rounds: T.
        rate: η, of a clinic's step.
        momentum: β, of the server.
        average: part of the rounds, the last ones, whose models are averaged.
        loss: what is to be expected above the least loss.
    """

    rounds: int
    rate: float
    momentum: float
    average: float
    loss: float


def rates(features: int) -> tuple[float, ...]:
    """Return the rates to choose from, by factors of √2.

    A round moves the head by at most the rate, since gradients are clipped to 1, and the head that is sought has a
    length of √d c: a rate beyond √d would pass it in one round, where nothing is quadratic.
    """
    most = math.floor(2 * math.log2(math.sqrt(features)))
    return tuple(2.0 ** (power / 2) for power in range(-8, most + 1))


@lru_cache(maxsize=64)
def best_steps(room: Room, rounds: tuple[int, ...] = ROUNDS) -> HeadSteps:
    """Return the steps to take; `rounds`: how many there may be."""
    every = [steps for number in rounds for steps in _all_steps(room, number)]
    least = min(steps.loss for steps in every)
    enough = [steps for steps in every if steps.loss <= ENOUGH * least]
    fewest = min(steps.rounds for steps in enough)
    return min((steps for steps in enough if steps.rounds == fewest), key=lambda steps: steps.loss)


@dataclass(frozen=True)
class Reached:
    """What steps make of a head along a feature that varies as public images do.

    Attributes:
        part: of the way from a head of zero to the optimum.
        noise: standard deviation of what is added to that.
    """

    part: float
    noise: float


def reached(room: Room, steps: HeadSteps) -> Reached:
    """Return where a head is to be expected after these steps; their `loss` is of no account."""
    curvature = np.array([CURVATURE / room.features])
    left, response = _recursion(steps.rounds, steps.momentum, np.array([steps.rate]), curvature)
    averaged = max(1, round(steps.average * steps.rounds))
    # Of the start's distance, a part is noise of the release that it was solved from.
    start = float(_distance(room, curvature)[0]) / LOGITS**2
    still = float(left[-averaged:, 0, 0].mean())
    noise = float(_kept(response, averaged)[0, 0]) * _noise(room, steps.rounds)
    if not room.start_share:
        return Reached(1 - still, math.sqrt(noise))
    return Reached(1 - still * start, math.sqrt(noise + still**2 * start * (1 - start) * LOGITS**2))


def _all_steps(room: Room, rounds: int) -> Iterator[HeadSteps]:
    etas = rates(room.features)
    for momentum in MOMENTA:
        left, response = _recursion(rounds, momentum, np.array(etas), _curvatures(room))
        for average in AVERAGES:
            losses = _losses(room, left, response, max(1, round(average * rounds)))
            for eta, loss in zip(etas, losses.tolist(), strict=True):
                yield HeadSteps(rounds, eta, momentum, average, loss)


def _curvatures(room: Room) -> FloatArray:
    """Return λ along each of the features that stand for all, shape (len(SPECTRUM),)."""
    return CURVATURE * np.array(SPECTRUM) / room.features


def _recursion(rounds: int, momentum: float, etas: FloatArray, curvatures: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the distance left after each round, and the response to noise in the first: (rounds, rates, features)."""
    shape = (len(etas), len(curvatures))
    found: list[FloatArray] = []
    for distance, noise in ((1.0, 0.0), (0.0, 1.0)):
        path: list[FloatArray] = []
        head, moved = np.full(shape, distance), np.zeros(shape)
        for number in range(rounds):
            gradient = head * curvatures + (noise if number == 0 else 0.0)
            moved = momentum * moved - etas[:, None] * gradient
            head = head + moved
            path.append(head)
        found.append(np.stack(path))
    return found[0], found[1]


def _losses(room: Room, left: FloatArray, response: FloatArray, averaged: int) -> FloatArray:
    """Return the expected loss above the least for each rate, shape (rates,), of the mean of the last models."""
    curvatures = _curvatures(room)
    start = left[-averaged:].mean(axis=0) ** 2 * _distance(room, curvatures)
    noise = _kept(response, averaged) * _noise(room, len(left))
    return np.asarray((curvatures * (start + noise)).sum(axis=1))


def _kept(response: FloatArray, averaged: int) -> FloatArray:
    """Return how much of the variance of each step's noise stays in the averaged models, shape (rates, features)."""
    sums = np.concatenate([np.zeros((1, *response.shape[1:])), np.cumsum(response, axis=0)])
    # Noise of round k answers in the averaged models from round T - n on.
    last = np.arange(len(response), 0, -1)
    first = np.maximum(last - averaged, 0)
    return np.asarray((((sums[last] - sums[first]) / averaged) ** 2).sum(axis=0))


def _noise(room: Room, rounds: int) -> float:
    """Return the variance of the noise of one step's mean gradient, along each feature."""
    return rounds / ((1 - room.start_share) * _people(room) ** 2)


def _people(room: Room) -> float:
    """Return μ N √K: one over the noise of the mean of a gradient, were all spent on one."""
    return room.mu * room.patients * math.sqrt(room.clinics)


def _distance(room: Room, curvatures: FloatArray) -> FloatArray:
    """Return the squared distance from the start to the optimum along each feature."""
    whole = np.full(len(curvatures), LOGITS**2)
    if not room.start_share:
        return whole
    # The second moment's noise meets a head of that length; the solver shrinks what it cannot tell.
    sensitivity = SENSITIVITY**2 * (1 + CURVATURE**2 * LOGITS**2 * room.features / 2)
    solved = sensitivity / (room.start_share * _people(room) ** 2) / curvatures**2
    return np.asarray(1 / (1 / whole + 1 / solved))
