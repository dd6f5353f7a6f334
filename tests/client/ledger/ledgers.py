"""Charges, and a price for them that costs nothing to compute."""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from melfed.client.ledger.budget import Budget
from melfed.client.ledger.ledger import Charge, Ledger
from melfed.client.ledger.rows import Purpose
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import BudgetError

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


@contextlib.contextmanager
def too_little(match: str = "") -> Iterator[pytest.ExceptionInfo[BudgetError]]:
    """The body asks for more than is left: only the error's figures say how much that is, and match."""
    with pytest.raises(BudgetError) as caught:
        yield caught
    assert re.search(match, caught.value.figures), caught.value.figures
    assert str(caught.value).startswith("too little is left of ")
    assert not re.search(r"is left;|is spent|needs", str(caught.value))


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
