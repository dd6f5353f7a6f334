"""A function in a process of its own: what it returns, raises and loads."""

import os
import sys
from decimal import Decimal
from fractions import Fraction

import pytest

from melfed.common.errors import RunError, ServiceError
from melfed.common.process.aside import aside


def where(*numbers: Fraction) -> tuple[int, Fraction, bool]:
    import colorsys  # noqa: F401 (something that nobody else loads)

    return os.getpid(), sum(numbers, Fraction()), "colorsys" in sys.modules


def refuse(reason: str) -> Decimal:
    raise RunError(reason)


def end() -> None:
    os.kill(os.getpid(), 9)


def test_it_runs_elsewhere_and_what_it_loads_stays_there() -> None:
    sys.modules.pop("colorsys", None)
    process, total, loaded = aside(where, Fraction(1, 3), Fraction(1, 6))
    assert (total, loaded) == (Fraction(1, 2), True)
    assert process != os.getpid()
    assert "colorsys" not in sys.modules


def test_what_it_raises_is_raised_and_its_end_is_one_line() -> None:
    with pytest.raises(RunError, match="no such run"):
        aside(refuse, "no such run")
    with pytest.raises(ServiceError, match=r"the process for end was ended; see that the machine has memory left"):
        aside(end)
