"""Charges, and a price for them that costs nothing to compute."""

import math
from collections.abc import Sequence
from pathlib import Path

from client.privacy.accounting import Mechanism
from client.privacy.book import Purpose
from client.privacy.ledger import Budget, Charge, Ledger

DATA = "d" * 64
STUDY = "5" * 64
DELTA = 1e-5
FREE = Budget(None, DELTA)
MECHANISM = Mechanism(0.1, 2.0, 10)


def charge(
    round_number: int = 1,
    mechanism: Mechanism = MECHANISM,
    run: str = "run",
    purpose: Purpose = "training",
    study: str = STUDY,
    request: str | None = None,
) -> Charge:
    return Charge(study, run, round_number, purpose, "patient", mechanism, DELTA, request)


def cheap_epsilon(history: Sequence[Mechanism], delta: float) -> float:
    """ε that grows with steps and rate and falls with noise; adds up exactly for rates and σ of powers of two."""
    if any(mechanism.noise_multiplier == 0 for mechanism in history):
        return math.inf
    return sum(mechanism.steps * mechanism.sampling_rate / mechanism.noise_multiplier for mechanism in history)


def spend(ledger: Ledger, wish: Charge, budget: Budget = FREE) -> None:
    """Reserve, spend and release a charge."""
    reservation = ledger.reserve(wish, budget)
    ledger.mark(reservation, "spent")
    ledger.mark(reservation, "released")


def written(path: Path, rounds: int = 2) -> Path:
    """A ledger of so many rounds: three rows a round."""
    with Ledger.open(path, DATA) as ledger:
        for number in range(1, rounds + 1):
            spend(ledger, charge(number))
    return path
