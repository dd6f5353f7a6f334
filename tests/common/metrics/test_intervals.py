"""Interval formulas against SciPy, and their behaviour at the ends of [0, 1]."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import brentq
from scipy.stats import binomtest

from melfed.common.metrics.intervals import (
    UNDEFINED,
    Z95,
    Interval,
    boyd_auprc,
    hanley_mcneil,
    kish_size,
    newcombe_auroc,
    proportion_interval,
    square_and_add,
    wilson,
)

SIZES = st.floats(1, 10_000)


@pytest.mark.parametrize(("successes", "size"), [(0, 1), (0, 30), (7, 10), (1, 2), (250, 1000), (40, 40)])
def test_wilson_agrees_with_scipy(successes: int, size: int) -> None:
    expected = binomtest(successes, size).proportion_ci(method="wilson")
    low, high = wilson(successes / size, size)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_works_elementwise() -> None:
    low, high = wilson(np.array([0.0, 0.5]), 20)
    assert low.shape == high.shape == (2,)
    assert (float(low[1]), float(high[1])) == pytest.approx(tuple(map(float, wilson(0.5, 20))))


def test_hanley_mcneil_with_equal_classes_is_the_published_variance() -> None:
    theta, n = 0.8, 30
    q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
    expected = (theta * (1 - theta) + (n - 1) * (q1 - theta**2) + (n - 1) * (q2 - theta**2)) / n**2
    assert hanley_mcneil(theta, n, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("theta", "positives", "negatives"), [(0.5, 10, 10), (0.86, 12, 200), (0.99, 50, 3), (0.1, 4, 9)]
)
@pytest.mark.parametrize("inflation", [1.0, 1.7])
def test_newcombe_limits_solve_their_equation(
    theta: float, positives: float, negatives: float, inflation: float
) -> None:
    def equation(t: float) -> float:
        return (t - theta) ** 2 - Z95**2 * inflation * hanley_mcneil(t, positives, negatives)

    expected = brentq(equation, 0, theta, xtol=1e-14), brentq(equation, theta, 1, xtol=1e-14)
    assert newcombe_auroc(theta, positives, negatives, inflation) == pytest.approx(expected, abs=1e-9)


def test_newcombe_keeps_a_width_at_a_perfect_area() -> None:
    low, high = newcombe_auroc(1.0, 10, 100)
    assert high == 1.0
    assert low == pytest.approx(1 - Z95 * math.sqrt(hanley_mcneil(low, 10, 100)), abs=1e-9)
    assert 0.75 < low < 0.95
    assert newcombe_auroc(0.0, 100, 10) == pytest.approx((0.0, 1 - low), abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(theta=st.floats(0, 1), positives=SIZES, negatives=SIZES)
def test_auroc_limits_enclose_and_mirror(theta: float, positives: float, negatives: float) -> None:
    low, high = newcombe_auroc(theta, positives, negatives)
    assert 0 <= low <= theta <= high <= 1
    assert newcombe_auroc(1 - theta, negatives, positives) == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_boyd_is_the_published_formula_away_from_the_ends() -> None:
    theta, n = 0.6, 40
    logit, error = math.log(theta / (1 - theta)), Z95 / math.sqrt(n * theta * (1 - theta))
    expected = tuple(1 / (1 + math.exp(-(logit + sign * error))) for sign in (-1, 1))
    assert boyd_auprc(theta, n) == pytest.approx(expected)


@settings(deadline=None, max_examples=100)
@given(a=st.floats(0, 1), b=st.floats(0, 1), size=SIZES)
def test_auprc_limits_enclose_and_grow_with_the_value(a: float, b: float, size: float) -> None:
    a, b = sorted((a, b))
    (low_a, high_a), (low_b, high_b) = boyd_auprc(a, size), boyd_auprc(b, size)
    assert 0 <= low_a <= a + 1e-12
    assert a - 1e-12 <= high_a <= 1
    assert low_a <= low_b + 1e-9
    assert high_a <= high_b + 1e-9


def test_auprc_limits_at_the_ends() -> None:
    low, high = boyd_auprc(1.0, 10)
    assert high == 1.0
    assert 0.4 < low < 0.8
    assert boyd_auprc(0.0, 10)[0] == 0.0
    assert boyd_auprc(0.999, 10)[0] == pytest.approx(low)


def test_square_and_add() -> None:
    assert square_and_add(1.0, (0.3, 0.0), (0.4, 1.0)) == pytest.approx((0.5, 2.0))


def test_kish_size() -> None:
    assert kish_size(12, 3 * 4**2) == 3
    assert kish_size(12, 12) == 12
    assert kish_size(0, 0) == 0


def test_interval_is_frozen_and_finite() -> None:
    interval = proportion_interval(0.5, 0.6, 1.2)
    assert interval == Interval(value=0.5, low=0.5, high=1.0)
    assert interval.around(0.4).low == 0.4
    assert UNDEFINED.around(0.4) == Interval()
    with pytest.raises(ValidationError):
        interval.value = 0.1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Interval(value=math.nan)
