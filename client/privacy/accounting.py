"""What noise costs: ε of a history of sampled Gaussian mechanisms, and the noise that an ε demands.

A mechanism adds N(0, σ²C²) to a sum over Poisson-sampled units, each of which contributes a vector of norm at most C;
neighbouring data sets differ by one unit, added or removed. Costs are computed from the privacy loss distribution
(Koskela et al., arXiv 1906.03049; Doroshenko et al., arXiv 2207.04380, by Google's dp-accounting), which is rounded
towards more loss: what is reported here is never below the truth. How far it is above was measured: less than 0.003 %
for thousands of equal steps, 0.1 % for 100,000, and about 1 % where a few strong steps are composed with thousands
of weak ones.

Full batches (q = 1) are composed exactly before that: Gaussian mechanisms of σ₁, σ₂, … are one with
1/σ² = 1/σ₁² + 1/σ₂² + … (Dong, Roth & Su, arXiv 1905.02383, corollary 3.3). Where there is nothing else, ε of that one
follows from its closed form (Balle & Wang, arXiv 1805.06530, theorem 8), within a millionth of δ, towards more loss.
"""

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

import numpy as np

from melfed.common.errors import StudyError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

_TOLERANCE = 1e-3
"""Relative error of a calibrated noise multiplier, towards more noise."""
_SIGMAS = (1e-3, 1e6)
"""Noise multipliers that calibration chooses from; less than the first counts as no noise."""
_NOISE_OF_FFT = 1e-16
"""δ that a composed step may lose to rounding in the Fourier transform: four times what was measured, and more."""
_ROUNDING = 1e-6
"""Part of δ that the closed form of a Gaussian mechanism gives away for the rounding of its arithmetic."""
_LARGEST = 700.0
"""Largest ε that is told from infinity: exp(-ε) leaves the normal numbers of float64 soon after."""


@dataclass(frozen=True, order=True)
class Mechanism:
    """So many steps of the Poisson-sampled Gaussian mechanism.

    Raises:
        StudyError: where a value is outside its range.
    """

    sampling_rate: float
    """q in (0, 1]: the probability that a unit takes part in a step."""
    noise_multiplier: float
    """σ ≥ 0: standard deviation of the noise over the largest norm of a unit's contribution."""
    steps: int
    """How often, at least 0."""

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise StudyError(f"sampling_rate {self.sampling_rate:g} is outside (0, 1]; it is a unit's chance in a step")
        if not 0 <= self.noise_multiplier < math.inf:
            raise StudyError(f"noise_multiplier {self.noise_multiplier:g} is not a finite number of at least 0")
        if self.steps < 0:
            raise StudyError(f"steps {self.steps} is negative; count the noisy steps that were or will be taken")


def epsilon(history: Sequence[Mechanism], delta: float) -> float:
    """Return ε such that all of a history together is (ε, δ)-differentially private.

    The order of the history does not matter, and answers are remembered. 0 where nothing was done; infinite
    above 700, for σ below 0.001, and where δ is too small for the arithmetic: 1e-16 a step, and at least 1e-14, are
    set aside.

    Raises:
        StudyError: for a delta outside (0, 1).

    >>> round(epsilon([Mechanism(sampling_rate=1.0, noise_multiplier=5.0, steps=10)], delta=1e-5), 2)
    2.59
    """
    return _spent(history, delta)


def noise_multiplier(
    epsilon: float, delta: float, sampling_rate: float, steps: int, others: Sequence[Mechanism] = ()
) -> float:
    """Return the smallest σ with which so many steps, together with what else is spent, cost at most ε.

    It is at most 0.1 % above the smallest, never below. 0.001 is the smallest that is returned, and an ε above 700 is
    taken for 700.

    Args:
        epsilon: the budget, finite and above 0.
        delta: as in `epsilon()`.
        sampling_rate: q of the steps.
        steps: how many, at least 1.
        others: what is, or will be, spent on the same units besides.

    Raises:
        StudyError: for a value outside its range, and where no noise is enough, since the others spend the budget.

    >>> sigma = noise_multiplier(3.0, delta=1e-5, sampling_rate=0.1, steps=100)
    >>> round(sigma, 2)
    1.67
    >>> epsilon([Mechanism(0.1, sigma, 100)], 1e-5) <= 3.0
    True
    """
    from scipy.optimize import brentq

    if not 0 < epsilon < math.inf:
        raise StudyError(f"epsilon {epsilon:g} is not a finite number above 0; state the privacy that is wanted")
    if steps < 1:
        raise StudyError(f"steps {steps} need no noise; state how many noisy steps are to be taken, at least 1")

    def excess(sigma: float) -> float:
        # The root finder needs finite numbers, also where ε is infinite.
        return min(_spent([Mechanism(sampling_rate, sigma, steps), *others], delta), 2 * _LARGEST) - epsilon

    if (before := _spent(others, delta)) >= epsilon:
        raise StudyError(
            f"epsilon {epsilon:g} at delta {delta:g} is spent: what else is done costs {before:.4g}; allow a larger "
            "epsilon, or do less"
        )
    epsilon = min(epsilon, _LARGEST)
    low = high = _guess(epsilon, delta, sampling_rate, steps, others)
    if sampling_rate == 1 and all(row.sampling_rate == 1 for row in others):
        # The guess is the smallest in exact arithmetic, and the accountant's own is hardly above it: one look tells.
        for step in (1, 2, 3):
            if excess(enough := low * (1 + _TOLERANCE / 4 * step)) <= 0:
                return enough
    growth = 1.02
    while excess(high) > 0:
        if high >= _SIGMAS[1]:
            raise StudyError(
                f"no noise multiplier up to {_SIGMAS[1]:g} keeps {steps} steps within epsilon {epsilon:g} at delta "
                f"{delta:g}, what else is done costs {before:.4g}; allow a larger epsilon or delta, or take fewer steps"
            )
        low, high, growth = high, min(high * growth, _SIGMAS[1]), growth**2
    while excess(low) <= 0:
        if low <= _SIGMAS[0]:
            return low
        low, high, growth = max(low / growth, _SIGMAS[0]), low, growth**2
    sigma = math.exp(
        brentq(lambda logarithm: excess(math.exp(logarithm)), math.log(low), math.log(high), xtol=_TOLERANCE / 4)
    )
    return next(
        enough for step in itertools.count() if excess(enough := min(sigma * (1 + _TOLERANCE / 2 * step), high)) <= 0
    )


@dataclass(frozen=True)
class CrossCheck:
    """ε of one history by three accountants."""

    pld: float
    """By privacy loss distributions: what `epsilon()` reports."""
    prv: float | None
    """By Opacus's PRV accountant; None where it is not asked (see `cross_check`)."""
    rdp: float
    """By Opacus's RDP accountant, an upper bound."""


def cross_check(history: Sequence[Mechanism], delta: float) -> CrossCheck:
    """Return ε by `epsilon()` and by Opacus's two accountants, which must agree with it.

    - PRV (Gopi, Lee & Wutschitz, arXiv 2106.02848) bounds ε to within an error that it is given: 0.01, or 1 % of a
      large ε. It reports the upper end, so it must lie between PLD and PLD plus twice that error, and 1 % for PLD's own
      slack. It is asked where it works and answers in seconds: PLD between 0 and 300, δ of at least 1e-9, up to
      1,000,000 steps of up to 8 different (q, σ).
    - RDP (Mironov, arXiv 1702.07476; conversion of Balle et al., arXiv 1905.09982) is an upper bound: it must not be
      below PLD by more than that 1 %. How far it may be above is known for σ of at least 0.7 (where q < 1) and δ from
      1e-9 to 0.01: 3 to 40 %, and up to ε = 1.9 more where sampling is rare and ε small. Beyond 1.4 PLD + 2.5 it is
      called wrong there; elsewhere, and with less noise above all, RDP may be of no use.

    Raises:
        StudyError: where one of them is outside: an accountant is wrong, and nothing should be trained on its word.
    """
    pld = _spent(history, delta)
    if not math.isfinite(pld) or not (rows := _merged(history)):
        return CrossCheck(pld, None, pld)
    checked = CrossCheck(pld, _prv(rows, delta, pld), _rdp(rows, delta))
    lowest = 0.99 * pld - 1e-3
    _demand("RDP", checked.rdp, (lowest, 1.4 * pld + 2.5 if _rdp_is_close(rows, delta) else math.inf), pld)
    if checked.prv is not None:
        _demand("PRV", checked.prv, (lowest, 1.01 * pld + 2 * _prv_error(pld)), pld)
    return checked


def delta_warning(delta: float, units: int) -> str | None:
    """Return one line of warning where δ is not below 1/N for N units, else None.

    A mechanism that publishes one unit in the clear, chosen at random, is (0, 1/N)-differentially private.
    """
    if units < 1 or delta * units < 1:
        return None
    return (
        f"delta {delta:g} is not below 1/N for N = {units} units: it would allow publishing a unit outright; "
        f"state one well below {1 / units:.2g}"
    )


def _spent(history: Sequence[Mechanism], delta: float) -> float:
    if not 0 < delta < 1:
        raise StudyError(f"delta {delta:g} is outside (0, 1); state one well below 1 / units, such as 1e-5")
    rows = _merged(history)
    if any(row.noise_multiplier < _SIGMAS[0] for row in rows):
        return math.inf
    return _epsilon(_one_gaussian(rows), delta)


def _merged(history: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """One row for each (q, σ), sorted; without steps, none."""
    steps: Counter[tuple[float, float]] = Counter()
    for row in history:
        steps[row.sampling_rate, row.noise_multiplier] += row.steps
    return tuple(Mechanism(*key, count) for key, count in sorted(steps.items()) if count)


def _one_gaussian(rows: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """The same rows with all full batches as one step of one Gaussian mechanism."""
    sampled = tuple(row for row in rows if row.sampling_rate < 1)
    precision = math.fsum(row.steps / row.noise_multiplier**2 for row in rows if row.sampling_rate == 1)
    return (*sampled, Mechanism(1.0, 1 / math.sqrt(precision), 1)) if precision else sampled


@lru_cache(maxsize=4096)
def _epsilon(rows: tuple[Mechanism, ...], delta: float) -> float:
    if not rows:
        return 0.0
    if len(rows) == 1 and (rows[0].sampling_rate, rows[0].steps) == (1, 1):
        return _epsilon_of_gaussian(1 / rows[0].noise_multiplier, delta)
    interval = _interval(rows)
    losses = reduce(lambda one, other: one.compose(other), (_losses(row, interval) for row in rows))
    delta -= _NOISE_OF_FFT * (100 + sum(row.steps for row in rows))
    if delta <= 0:
        return math.inf
    with np.errstate(over="ignore"):
        spent = float(losses.get_epsilon_for_delta(delta))
    return spent if spent <= _LARGEST else math.inf


def _epsilon_of_gaussian(mu: float, delta: float) -> float:
    """Return ε of one Gaussian mechanism of μ = 1/σ (Balle & Wang, arXiv 1805.06530, theorem 8)."""
    from scipy.optimize import brentq

    def excess(epsilon: float) -> float:
        return _log_delta(mu, epsilon) - math.log(delta * (1 - _ROUNDING))

    if excess(0.0) <= 0:
        return 0.0
    if excess(_LARGEST) > 0:
        return math.inf
    root = float(brentq(excess, 0.0, _LARGEST, xtol=1e-13, rtol=1e-12))
    return min(root * (1 + 1e-11) + 2e-13, _LARGEST)


def _log_delta(mu: float, epsilon: float) -> float:
    """Return the logarithm of δ at which one Gaussian mechanism of μ = 1/σ is (ε, δ)-private."""
    from scipy.special import log_ndtr

    upper, lower = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(upper + math.log(-math.expm1(min(lower - upper, -1e-300))))


@lru_cache(maxsize=16)
def _losses(row: Mechanism, interval: float) -> "PrivacyLossDistribution":
    step = _step_losses(row.sampling_rate, row.noise_multiplier, interval)
    return step if row.steps == 1 else step.self_compose(row.steps)


@lru_cache(maxsize=16)
def _step_losses(sampling_rate: float, noise: float, interval: float) -> "PrivacyLossDistribution":
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(noise, sampling_prob=sampling_rate, value_discretization_interval=interval)


def _interval(rows: Sequence[Mechanism]) -> float:
    """Grid of the privacy losses: fine beside the loss of a step, but of at most some 100,000 points.

    Rounding adds a variance of about interval² / 4 a step to the loss. Grids are powers of 2, each part of all finer
    ones, and grow with every argument: more steps, less noise or more sampling never cost less by a finer grid.
    """
    fine = max((_spread(row) for row in rows if row.sampling_rate < 1), default=0.0) * 1e-2
    total = math.sqrt(math.fsum(row.steps * _spread(row) ** 2 for row in rows))
    coarse = max(3e-4 * total, 1e-5 * max(map(_largest_loss, rows)))
    return float(2.0 ** math.floor(math.log2(max(fine, coarse))))


def _largest_loss(row: Mechanism) -> float:
    """About the largest privacy loss of a step that dp-accounting considers, ten standard deviations out."""
    return max(0.0, 10 / row.noise_multiplier + 0.5 / row.noise_multiplier**2 + math.log(row.sampling_rate))


def _spread(row: Mechanism) -> float:
    """Standard deviation of a step's privacy loss, or somewhat more (Bu et al., arXiv 1911.11607, for small q)."""
    full = 1 / row.noise_multiplier**2
    sampled = row.sampling_rate**2 * math.expm1(full) if full < _LARGEST else math.inf
    return math.sqrt(min(full, sampled))


def _guess(epsilon: float, delta: float, sampling_rate: float, steps: int, others: Sequence[Mechanism]) -> float:
    """A noise multiplier near the answer, by the central limit theorem of Gaussian DP; exact at q = 1."""
    left = _gaussian_spread(epsilon, delta) ** 2
    share = max(left - math.fsum(row.steps * _spread(row) ** 2 for row in others), left * 1e-3) / steps
    sigma = 1 / math.sqrt(share if sampling_rate == 1 else math.log1p(share / sampling_rate**2))
    return min(max(sigma, _SIGMAS[0]), _SIGMAS[1])


def _gaussian_spread(epsilon: float, delta: float) -> float:
    """The μ = 1/σ with which one Gaussian step is exactly (ε, δ)-private (Balle & Wang, arXiv 1805.06530, th. 8)."""
    from scipy.optimize import brentq

    def excess(mu: float) -> float:
        return _log_delta(mu, epsilon) - math.log(delta)

    return float(brentq(excess, 1e-9, math.sqrt(2 * epsilon) + 80))


def _prv_error(pld: float) -> float:
    return min(max(0.01, 0.01 * pld), 0.5)  # its domain is not safe for errors near 1


def _prv(rows: Sequence[Mechanism], delta: float, pld: float) -> float | None:
    from opacus.accountants import PRVAccountant

    if not 0 < pld <= 300 or delta < 1e-9 or len(rows) > 8 or sum(row.steps for row in rows) > 1_000_000:
        return None
    accountant = PRVAccountant()
    accountant.history = [(row.noise_multiplier, row.sampling_rate, row.steps) for row in rows]
    with warnings.catch_warnings(action="ignore"):  # it takes log(0) on its way at q = 1
        return float(accountant.get_epsilon(delta, eps_error=_prv_error(pld)))


def _rdp(rows: Sequence[Mechanism], delta: float) -> float:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(row.noise_multiplier, row.sampling_rate, row.steps) for row in rows]
    orders = [*RDPAccountant.DEFAULT_ALPHAS, *(2**power for power in range(6, 13))]
    with warnings.catch_warnings(action="ignore"):  # it warns where the best order is the first or last
        return max(0.0, float(accountant.get_epsilon(delta, alphas=orders)))


def _rdp_is_close(rows: Sequence[Mechanism], delta: float) -> bool:
    return 1e-9 <= delta <= 0.01 and all(row.sampling_rate == 1 or row.noise_multiplier >= 0.7 for row in rows)


def _demand(name: str, value: float, bounds: tuple[float, float], pld: float) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise StudyError(
            f"the {name} accountant says epsilon {value:.6g} where PLD says {pld:.6g} (it may say {bounds[0]:.6g} to "
            f"{bounds[1]:.6g}); one of them is wrong: train nothing, and report both versions and the history"
        )
