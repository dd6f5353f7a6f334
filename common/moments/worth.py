"""What each clinic's release added to the head: only algebra on moments, and no question to anybody.

A head is solved from the training moments of every subset of clinics; with none of them there is the public head, if
any. What a clinic adds to all others is the value of all less the value without it (leave one out); Shapley's value is
the mean of what it adds over all orders in which the clinics could have come (Shapley 1953), so that the values of all
clinics add up to that of all together, above that of none. What a pair adds is the value of all less the value without
both.

**The judge.** A head's value is a function of one number, how far apart it puts the classes:

    a = w·(m₁ - m₀) / √(wᵀ S w),

of the class means m and the covariance within them S, as all moments say, of training and validation together: in the
few units of validation alone the noise would hide it. That takes scores as normal with one variance for both classes.

**What is taken off.** The same noise, of privacy and of who happened to be a patient, is in the heads of training and
in their judge, and a head that follows it looks better than it is. To first order a is wrong by e = u·ξ - a/2 uᵀ Ξ u,
for u = w / √(wᵀ S w), ξ in m₁ - m₀ and Ξ in S, all of them (nearly) normal with known covariances. By Stein's lemma
(Stein 1981) the mean of e is what u changes by, along such an error: E Σ Cov ∂u. So training moments are given errors
± η h of the same distribution, some times, and what they do to u is held against the ξ and Ξ that belong to η:

    E e = E [e(u⁺) - e(u⁻)] / 2 h.

**Intervals** are of the noise and of the choice of patients, 95 %. The variance of e less its estimated mean is
uᵀ Cov(ξ) u + ..., for a fixed u, and the trace of the square of Cov ∂u, for one that follows the noise (Bellec & Zhang,
arXiv 1811.04121, theorem 2.1); the variance of the draws is at least twice that trace. A difference of two values has
the difference of both in place of u: the noise that heads share goes away.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

import numpy as np

from melfed.common.errors import DataError
from melfed.common.metrics.intervals import Z95
from melfed.common.moments.head import binormal_auroc
from melfed.common.moments.noisy_moments import CLASSES, SCALE, FloatArray, IntArray, MomentClass, NoisyMoments, pooled
from melfed.common.moments.solvers import denoised, scatter_within

Judge = Literal["auroc", "squared_error"]
MOST_CLINICS: Final = 12
"""Of more, there are too many subsets."""
DRAWS: Final = 12
"""Errors that training moments are given, each in both directions."""
STEP: Final = 0.5
"""h, over the errors that moments have: a small one would measure the slope, and lose it in rounding."""
Direct = Callable[[NoisyMoments], FloatArray]
Coalition = frozenset[str]
Figure = tuple[str, str | tuple[str, str]]


@dataclass(frozen=True)
class Estimate:
    """A value, and its 95 % limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Worth:
    """What clinics added, by one judge.

    Attributes:
        judge: the binormal AUROC, where more is better, or the squared error, where less is.
        start: the value of the head that there is without any clinic.
        together: the value of all clinics' head.
        alone: what each clinic adds to all others, by name.
        shapley: Shapley's value of each clinic.
        pairs: what each two clinics add to all others.
    """

    judge: Judge
    start: Estimate
    together: Estimate
    alone: Mapping[str, Estimate]
    shapley: Mapping[str, Estimate]
    pairs: Mapping[tuple[str, str], Estimate]


@dataclass(frozen=True, eq=False)
class Seen:
    """What all moments together say of the two classes.

    Attributes:
        units: of each class.
        means: of each class, shape (d,).
        within: covariance within the classes, S, shape (d, d).
        noise_std: of each number that the moments are made of, in counts.
    """

    units: Mapping[MomentClass, float]
    means: Mapping[MomentClass, FloatArray]
    within: FloatArray
    noise_std: float

    @classmethod
    def of(cls, moments: NoisyMoments) -> "Seen":
        """Read moments; a class has one unit at least."""
        units = {name: max(moments.count(name), 1.0) for name in CLASSES}
        means = {name: moments.total(name) / units[name] for name in CLASSES}
        within = denoised(scatter_within(moments), moments.noise_std) / sum(units.values())
        return cls(units, means, within, moments.noise_std)

    @property
    def every(self) -> float:
        """How many units there are."""
        return sum(self.units.values())

    @property
    def difference(self) -> FloatArray:
        """m₁ - m₀, shape (d,)."""
        return self.means["positives"] - self.means["negatives"]

    def scaled(self, direction: FloatArray) -> FloatArray:
        """Return a head along a direction whose scores have a variance of 1; zeros for zeros."""
        return np.asarray(direction / math.sqrt(max(float(direction @ self.within @ direction), 1e-12)))

    def of_difference(self) -> FloatArray:
        """Return the covariance of ξ, shape (d, d)."""
        noise = self.noise_std**2 * sum(1 / units**2 for units in self.units.values())
        return noise * np.eye(len(self.within)) + self.within * sum(1 / units for units in self.units.values())

    def of_spread(self, heads: FloatArray, factors: FloatArray) -> float:
        """Return the variance of Σ f uᵀ Ξ u over heads u, shape (k, d), for factors f, shape (k,).

        The noise of both classes together has a variance of s² off the diagonal of the scatter, and of 2 s² on it.
        """
        noise = (self.noise_std / self.every) ** 2 * (heads @ heads.T) ** 2
        patients = (heads @ self.within @ heads.T) ** 2 / self.every
        return 2 * float(factors @ (noise + patients) @ factors)


def worth(
    train: Mapping[str, NoisyMoments],
    validation: Mapping[str, NoisyMoments],
    direct: Direct,
    judge: Judge,
    random: np.random.Generator,
    public: FloatArray | None = None,
) -> Worth:
    """Return what each clinic, and each pair, added.

    Args:
        train: each clinic's moments to solve heads from; 2 to 12 clinics.
        validation: each clinic's moments of other units, by which heads are judged too.
        direct: makes the direction of a head, shape (d,), of moments.
        judge: by what heads are judged.
        random: draws errors.
        public: the head that there is without any clinic, shape (d,); None: none, which scores all alike.

    Raises:
        DataError: there are too few or too many clinics.
    """
    if not 2 <= len(train) <= MOST_CLINICS:
        raise DataError(f"{len(train)} clinics: what each added can be told of 2 to {MOST_CLINICS}")
    names = sorted(train)
    coalitions = [frozenset(some) for size in range(len(names) + 1) for some in combinations(names, size)]
    seen = Seen.of(pooled([*train.values(), *validation.values()]))

    def heads(moments: Mapping[str, NoisyMoments]) -> FloatArray:
        return np.array([seen.scaled(_direction(direct, moments, some, public, seen)) for some in coalitions])

    found = heads(train)
    followed = np.array([_followed(train, heads, seen, random) for _ in range(DRAWS)])
    off, spread = followed.mean(axis=0)
    # a is what is left without an error of `off - a spread`.
    apart = (found @ seen.difference - off) / (1 - np.minimum(spread, 0.5))
    drawn = followed[:, 0] - apart * followed[:, 1]
    judged = [value(float(each), judge, seen) for each in apart]
    values, slopes = (np.array(each) for each in zip(*judged, strict=True))
    figures = _figures(names, coalitions)

    def estimate(key: Figure) -> Estimate:
        middle, along = float(figures[key] @ values), figures[key] * slopes
        half = Z95 * math.sqrt(_variance(along, found, apart, drawn, seen))
        return Estimate(middle, middle - half, middle + half)

    return Worth(
        judge,
        estimate(("start", "")),
        estimate(("together", "")),
        {name: estimate(("alone", name)) for name in names},
        {name: estimate(("shapley", name)) for name in names},
        {pair: estimate(("pair", pair)) for pair in combinations(names, 2)},
    )


def value(apart: float, judge: Judge, seen: Seen) -> tuple[float, float]:
    """Return what a head is worth that puts the classes so far apart, and by how much more a larger `apart` is.

    The squared error is that of the best straight line from the score to targets 1 and 0.
    """
    if judge == "auroc":
        return binormal_auroc(apart, 2.0), math.exp(-(apart**2) / 4) / math.sqrt(4 * math.pi)
    share = seen.units["positives"] / seen.every
    guess = share * (1 - share)
    error = guess / (1 + guess * max(apart, 0.0) ** 2)
    return error, -2 * error**2 * max(apart, 0.0)


def _direction(
    direct: Direct, moments: Mapping[str, NoisyMoments], some: Coalition, public: FloatArray | None, seen: Seen
) -> FloatArray:
    """Return the direction of some clinics' head; zeros where there is none."""
    none = np.zeros(len(seen.within))
    if not some:
        return none if public is None else public
    try:
        found = direct(pooled(moments[name] for name in sorted(some)))
    except DataError:
        return none  # such moments tell nothing, which is what they are worth
    return found if np.isfinite(found).all() else none


def _followed(
    train: Mapping[str, NoisyMoments],
    heads: Callable[[Mapping[str, NoisyMoments]], FloatArray],
    seen: Seen,
    random: np.random.Generator,
) -> FloatArray:
    """Return one draw of the u·ξ and of the uᵀ Ξ u / 2 that heads owe to errors that they follow: (2, coalitions)."""
    errors = {name: _errors(moments, seen, random) for name, moments in sorted(train.items())}
    difference, within = _of_seen(pooled(errors.values()), seen)
    sides = [heads({name: _moved(train[name], errors[name], side) for name in train}) for side in (STEP, -STEP)]

    def wrong(u: FloatArray) -> FloatArray:
        return np.stack([u @ difference, ((u @ within) * u).sum(axis=1) / 2])

    return (wrong(sides[0]) - wrong(sides[1])) / (2 * STEP)


def _errors(moments: NoisyMoments, seen: Seen, random: np.random.Generator) -> NoisyMoments:
    """Return what the noise, and another choice of patients, could have added to a clinic's moments."""
    std, d = math.sqrt(float(moments.noise_variance[0])), moments.features
    root = np.linalg.cholesky(seen.within + 1e-9 * np.eye(d))
    rows, columns = np.triu_indices(d)
    drawn: dict[MomentClass, IntArray] = {}
    for name in CLASSES:
        error = random.normal(0, std, len(getattr(moments, name)))
        patients = SCALE * math.sqrt(max(moments.count(name), 0.0))
        mean = seen.means[name]
        total = patients * (root @ random.normal(size=d))
        spread = random.normal(size=(d, d))
        spread = patients * (root @ ((spread + spread.T) / math.sqrt(2)) @ root.T)
        second = spread + np.outer(mean, total) + np.outer(total, mean)
        factors = np.where(rows == columns, 1.0, math.sqrt(2))
        error[1 : 1 + d] += total
        error[1 + d :] += second[rows, columns] * factors
        drawn[name] = np.rint(error).astype(np.int64)
    return NoisyMoments(noise_variance=np.zeros(1), **drawn)


def _of_seen(errors: NoisyMoments, seen: Seen) -> tuple[FloatArray, FloatArray]:
    """Return ξ, shape (d,), and Ξ, shape (d, d), to first order, for errors of the moments that all is seen by."""
    difference, within = np.zeros(errors.features), np.zeros((errors.features,) * 2)
    for name, sign in zip(CLASSES, (1, -1), strict=True):
        mean, more = seen.means[name], errors.total(name) - errors.count(name) * seen.means[name]
        difference += sign * more / seen.units[name]
        # Of Σ x xᵀ - n m mᵀ, and of the number that it is divided by.
        within += errors.second(name) - np.outer(mean, more) - np.outer(more, mean)
        within -= errors.count(name) * (np.outer(mean, mean) + seen.within)
    return difference, within / seen.every


def _moved(moments: NoisyMoments, errors: NoisyMoments, step: float) -> NoisyMoments:
    changed = {name: getattr(moments, name) + np.rint(step * getattr(errors, name)).astype(int) for name in CLASSES}
    return replace(moments, **changed)


def _variance(along: FloatArray, heads: FloatArray, apart: FloatArray, drawn: FloatArray, seen: Seen) -> float:
    """Return the variance of Σ g a over heads, for factors g, of all that moments leave open."""
    together, some = along @ heads, along != 0
    fixed = float(together @ seen.of_difference() @ together)
    fixed += seen.of_spread(heads[some], (along * apart / 2)[some])
    return fixed + float(np.var(drawn @ along, ddof=1)) * (1 / 2 + 1 / len(drawn))


def _figures(names: Sequence[str], coalitions: Sequence[Coalition]) -> dict[Figure, FloatArray]:
    """Return each figure as factors of the coalitions' values, shape (coalitions,)."""
    place = {coalition: number for number, coalition in enumerate(coalitions)}
    every = frozenset(names)

    def less(first: Coalition, second: Coalition) -> FloatArray:
        factors = np.zeros(len(coalitions))
        factors[place[first]] += 1
        factors[place[second]] -= 1
        return factors

    whole, none = np.zeros((2, len(coalitions)))
    whole[place[every]] = none[place[frozenset()]] = 1
    figures: dict[Figure, FloatArray] = {("start", ""): none, ("together", ""): whole}
    for name in names:
        figures["alone", name] = less(every, every - {name})
        figures["shapley", name] = np.zeros(len(coalitions))
        for some, share in shapley_shares(name, every).items():
            figures["shapley", name] += share * less(some | {name}, some)
    for pair in combinations(names, 2):
        figures["pair", pair] = less(every, every - set(pair))
    return figures


def shapley_shares(name: str, every: Coalition) -> dict[Coalition, float]:
    """Return, for each set of the others, in which part of all orders it comes before one player and nobody else does.

    Shapley's value is the mean of what the player adds to these sets, by these shares, which add up to 1.
    """
    others, count = sorted(every - {name}), len(every)
    return {
        frozenset(some): 1 / (count * math.comb(count - 1, size))
        for size in range(count)
        for some in combinations(others, size)
    }
