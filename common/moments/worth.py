"""What each clinic's release added to the head: only algebra on moments, and no question to anybody.

A head is solved from the training moments of every subset of clinics, and judged by the validation moments of all of
them. What a clinic adds to all others is the value of all less the value without it (leave one out); Shapley's value is
the mean of what it adds over all orders in which the clinics could have come (Shapley 1953), so that the values of all
clinics add up to that of all together. What a pair adds is the value of all less the value without both.

The judge is approximate: the scores of both classes are taken as normal with one variance, and the moments that say so
have noise themselves. Intervals say what the noise alone leaves open: all moments are given as much noise again, some
times, and the spread of what comes of it is that of a value.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

import numpy as np

from melfed.common.errors import DataError
from melfed.common.metrics.intervals import Z95
from melfed.common.moments.head import Head, binormal_auroc
from melfed.common.moments.noisy_moments import CLASSES, NoisyMoments, pooled
from melfed.common.moments.solvers import denoised, scatter_within

Judge = Literal["auroc", "squared_error"]
MOST_CLINICS: Final = 12
"""Of more, there are too many subsets."""
REPEATS: Final = 20
"""Draws of noise for the intervals."""
Solve = Callable[[NoisyMoments], Head]
Coalition = frozenset[str]


@dataclass(frozen=True)
class Estimate:
    """A value, and the 95 % limits that noise leaves it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Worth:
    """What clinics added, by one judge.

    Attributes:
        judge: the binormal AUROC, where more is better, or the squared error, where less is.
        together: the value of all clinics' head.
        alone: what each clinic adds to all others, by name.
        shapley: Shapley's value of each clinic.
        pairs: what each two clinics add to all others.
    """

    judge: Judge
    together: Estimate
    alone: Mapping[str, Estimate]
    shapley: Mapping[str, Estimate]
    pairs: Mapping[tuple[str, str], Estimate]


def worth(
    train: Mapping[str, NoisyMoments],
    validation: Mapping[str, NoisyMoments],
    solve: Solve,
    judge: Judge,
    random: np.random.Generator,
) -> Worth:
    """Return what each clinic, and each pair, added.

    Args:
        train: each clinic's moments to solve heads from; 2 to 12 clinics.
        validation: each clinic's moments to judge them by.
        solve: makes a head of moments.
        judge: by what heads are judged.
        random: draws noise for the intervals.

    Raises:
        DataError: there are too few or too many clinics.
    """
    if not 2 <= len(train) <= MOST_CLINICS:
        raise DataError(f"{len(train)} clinics: what each added can be told of 2 to {MOST_CLINICS}")
    names = sorted(train)
    found = _figures(names, _values(train, validation, solve, judge))
    repeats = [
        _figures(names, _values(_noised(train, random), _noised(validation, random), solve, judge))
        for _ in range(REPEATS)
    ]

    def estimate(key: str, of: str | tuple[str, str]) -> Estimate:
        value = found[key, of]
        half = Z95 * float(np.std([repeat[key, of] for repeat in repeats], ddof=1))
        return Estimate(value, value - half, value + half)

    return Worth(
        judge,
        estimate("together", ""),
        {name: estimate("alone", name) for name in names},
        {name: estimate("shapley", name) for name in names},
        {pair: estimate("pair", pair) for pair in combinations(names, 2)},
    )


def judged(head: Head | None, validation: NoisyMoments, everything: NoisyMoments, judge: Judge) -> float:
    """Return how good a head is by moments; None: no head, which scores all alike.

    The squared error is that of the best straight line from the score to targets 1 and 0.

    Args:
        head: on the features of the moments.
        validation: the means of the scores are those of these.
        everything: with many more units: the variance of the scores, one for both classes, is that of these, since in
            few the noise would hide it.
        judge: by what.
    """
    units = {name: max(validation.count(name), 1.0) for name in CLASSES}
    share = units["positives"] / sum(units.values())
    guess = share * (1 - share)
    if head is None:
        return 0.5 if judge == "auroc" else guess
    means = {name: float(head.weight @ validation.total(name)) / units[name] for name in CLASSES}
    every = sum(max(everything.count(name), 1.0) for name in CLASSES)
    scatter = denoised(scatter_within(everything), everything.noise_std)
    variance = max(float(head.weight @ scatter @ head.weight) / every, 1e-12)
    distance = means["positives"] - means["negatives"]
    if judge == "auroc":
        return binormal_auroc(distance, 2 * variance)
    between = guess * distance**2
    return guess * variance / (variance + between) if distance > 0 else guess


def _values(
    train: Mapping[str, NoisyMoments], validation: Mapping[str, NoisyMoments], solve: Solve, judge: Judge
) -> dict[Coalition, float]:
    """Return the value of every subset of the clinics."""
    everywhere = pooled(validation.values())
    everything = pooled([*train.values(), everywhere])
    names = sorted(train)
    values = {frozenset[str](): judged(None, everywhere, everything, judge)}
    for size in range(1, len(names) + 1):
        for some in combinations(names, size):
            head = _head(solve, pooled(train[name] for name in some))
            values[frozenset(some)] = judged(head, everywhere, everything, judge)
    return values


def _head(solve: Solve, moments: NoisyMoments) -> Head | None:
    try:
        return solve(moments)
    except DataError:
        return None  # such moments tell nothing, which is what they are worth


def _figures(names: Sequence[str], values: Mapping[Coalition, float]) -> dict[tuple[str, str | tuple[str, str]], float]:
    every = frozenset(names)
    figures: dict[tuple[str, str | tuple[str, str]], float] = {("together", ""): values[every]}
    for name in names:
        figures["alone", name] = values[every] - values[every - {name}]
        figures["shapley", name] = shapley(name, every, values)
    for pair in combinations(names, 2):
        figures["pair", pair] = values[every] - values[every - set(pair)]
    return figures


def shapley(name: str, every: Coalition, values: Mapping[Coalition, float]) -> float:
    """Return Shapley's value of one of some players, from the values of all subsets."""
    others, count = sorted(every - {name}), len(every)
    return math.fsum(
        (values[frozenset(some) | {name}] - values[frozenset(some)]) / (count * math.comb(count - 1, size))
        for size in range(count)
        for some in combinations(others, size)
    )


def _noised(moments: Mapping[str, NoisyMoments], random: np.random.Generator) -> dict[str, NoisyMoments]:
    """Return moments with as much noise again, which they state as before: what they could have been."""

    def again(each: NoisyMoments) -> NoisyMoments:
        std = math.sqrt(float(each.noise_variance[0]))
        drawn = {name: random.normal(0, std, len(getattr(each, name))) for name in CLASSES}
        return replace(each, **{name: getattr(each, name) + np.rint(drawn[name]).astype(np.int64) for name in CLASSES})

    return {name: again(each) for name, each in sorted(moments.items())}
