"""What the charges of a ledger may reach, and whether one more, or all that a run will still ask, fits into that.

Two limits hold at a time: the clinic's ε of its data over all studies, and what it has approved of the one study, so
many runs and an ε over all of them. A run is begun by its first charge, and goes on whatever becomes of the server.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from melfed.client.ledger.rows import ChargeTerms, LedgerRow, Purpose
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import BudgetError, DeclinedError


@dataclass(frozen=True)
class Planned:
    """A mechanism that every run of a study applies so many times, each in a round of its own."""

    purpose: Purpose
    mechanism: Mechanism
    times: int


@dataclass(frozen=True)
class Allowance:
    """What a clinic has approved of one study: so many runs, and an ε, at the study's δ, over all of them."""

    runs: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Budget:
    """What may be charged.

    Attributes:
        epsilon: largest total ε of all charges; None: no limit.
        delta: at which that counts.
        study: what holds for the study that asks besides; None: nothing.
        plan: what a whole run of that study is charged: none is begun that could not be ended.
    """

    epsilon: float | None
    delta: float
    study: Allowance | None = None
    plan: tuple[Planned, ...] = ()


Charged = Mapping[str, Sequence[LedgerRow]]
"""The reserved rows of one study, by the run."""


def mechanism_of(terms: ChargeTerms) -> Mechanism:
    """Return what a charge applies."""
    return Mechanism(terms.sampling_rate, terms.noise_multiplier, terms.steps)


def remaining(plan: Sequence[Planned], charged: Sequence[ChargeTerms]) -> list[Mechanism]:
    """Return what a run will still be charged after these charges; a round that was charged twice counts once."""
    rounds = {(row.purpose, row.round) for row in charged}
    left = [(part, part.times - sum(purpose == part.purpose for purpose, _ in rounds)) for part in plan]
    return [times(part.mechanism, number) for part, number in left if number > 0]


def times(mechanism: Mechanism, number: int) -> Mechanism:
    """Return a mechanism that is applied so many times."""
    return Mechanism(mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.steps * number)


def check_run(history: Sequence[Mechanism], charged: Charged, run: str | None, budget: Budget) -> None:
    """Check, before anything is computed, that a run may begin or go on, and that all that it will ask still fits.

    Args:
        history: all charges of the ledger.
        charged: those of the run's study among them.
        run: its identity; None: a new one.
        budget: with the study's plan.

    Raises:
        DeclinedError: all runs that were approved have begun.
        BudgetError: too little is left for the rest of the run.
    """
    _check_runs(charged, run, budget)
    rest = remaining(budget.plan, charged.get(run, ()) if run is not None else ())
    _check_fits(history, charged, rest, budget, "all that a run of this study still asks")


def check_charge(
    history: Sequence[Mechanism], charged: Charged, terms: ChargeTerms, budget: Budget, *, again: bool = False
) -> None:
    """Check that a charge fits, with all that follows it where it begins a run.

    Args:
        history: all charges of the ledger.
        charged: those of the charge's study among them.
        terms: of the charge.
        budget: what all may reach.
        again: the charge is reserved already, and among these.

    Raises:
        DeclinedError, BudgetError: as `check_run`.
    """
    asked = mechanism_of(terms)
    others, of_study = list(history), {run: list(rows) for run, rows in charged.items()}
    if again:
        others.remove(asked)
        rows = of_study[terms.run]
        rows.remove(next(row for row in rows if mechanism_of(row) == asked))
    else:
        _check_runs(charged, terms.run, budget)
    wish = f"{terms.purpose} in round {terms.round} ({_in_words(asked)})"
    _check_fits(others, of_study, [asked], budget, wish)
    if not of_study.get(terms.run):
        all_of_it = [asked, *remaining(budget.plan, [terms])]
        _check_fits(others, of_study, all_of_it, budget, f"a whole run, which {wish} would begin")


def _check_runs(charged: Charged, run: str | None, budget: Budget) -> None:
    if budget.study is not None and run not in charged and len(charged) >= budget.study.runs:
        raise DeclinedError(
            "every run that this clinic has approved of this study has begun; for a further one, the clinic approves "
            "the study again, for more runs"
        )


def _check_fits(
    history: Sequence[Mechanism], charged: Charged, asked: Sequence[Mechanism], budget: Budget, wish: str
) -> None:
    """Raise BudgetError where what is asked exceeds one of the two limits."""
    if budget.epsilon is not None:
        limit = Budget(budget.epsilon, budget.delta)
        if figures := _excess(history, asked, limit):
            raise BudgetError(f"too little is left of these patients' ε for {wish}", figures)
    if budget.study is not None:
        limit = Budget(budget.study.epsilon, budget.study.delta)
        of_study = [mechanism_of(row) for rows in charged.values() for row in rows]
        if figures := _excess(of_study, asked, limit):
            raise BudgetError(f"too little is left of the ε that this clinic has approved for {wish}", figures)


def _excess(others: Sequence[Mechanism], asked: Sequence[Mechanism], limit: Budget) -> str:
    """Return, in figures, by how much what is asked exceeds a limit; empty where it fits."""
    assert limit.epsilon is not None  # noqa: S101
    total = accounting.epsilon([*others, *asked], limit.delta)
    if total <= limit.epsilon:
        return ""
    spent = accounting.epsilon(others, limit.delta)
    needed = _amount(total - spent if math.isfinite(spent) else math.inf)
    text = (
        f"of ε = {limit.epsilon:.6g} at δ = {limit.delta:g}, {_amount(spent)} is spent and "
        f"{max(limit.epsilon - spent, 0.0):.6g} is left; this needs {needed}"
    )
    if len(asked) > 1:
        return text
    return f"{text}; {_steps_that_fit(others, asked[0], limit)} of its steps would still fit"


def _steps_that_fit(others: Sequence[Mechanism], asked: Mechanism, limit: Budget) -> int:
    """Return the largest number of steps of a mechanism that stays within a limit that all of them exceed."""
    assert limit.epsilon is not None  # noqa: S101
    fits, exceeds = 0, asked.steps
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        tried = Mechanism(asked.sampling_rate, asked.noise_multiplier, middle)
        if accounting.epsilon([*others, tried], limit.delta) <= limit.epsilon:
            fits = middle
        else:
            exceeds = middle
    return fits


def _amount(epsilon: float) -> str:
    return f"{epsilon:.6g}" if math.isfinite(epsilon) else "more than any ε"


def _in_words(asked: Mechanism) -> str:
    return f"q = {asked.sampling_rate:g}, σ = {asked.noise_multiplier:g}, {asked.steps} steps"
