"""The bound against closed forms, exact mechanisms, and the plain sum of the theorem."""

import math
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.simulations.audit.bound import lower_bound, p_value, provable


def binomial(trials: int, probability: float) -> list[float]:
    """The probabilities of 0 to `trials` successes, by whole binomial coefficients."""
    return [math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(trials + 1)]


def theorem(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The p-value, term by term."""
    mass = binomial(r, math.exp(epsilon) / (1 + math.exp(epsilon)))
    excess = max((sum(mass[max(0, v - i) : v]) / i for i in range(1, m + 1)), default=0.0)
    return min(1.0, sum(mass[v:]) + 2 * m * delta * excess)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 40).flatmap(
        lambda m: st.integers(0, m).flatmap(
            lambda r: st.tuples(st.just(m), st.just(r), st.integers(0, r), st.floats(0, 6), st.floats(0, 0.1))
        )
    )
)
def test_it_is_the_theorem(case: tuple[int, int, int, float, float]) -> None:
    assert p_value(*case) == pytest.approx(theorem(*case), abs=1e-12)


def test_without_delta_all_right_has_a_closed_form() -> None:
    """All r guesses right: p^r = 0.05 with p = e^ε / (1 + e^ε)."""
    for guesses in (10, 100, 5000):
        chance = 0.05 ** (1 / guesses)
        assert provable(guesses, guesses, 0.0) == pytest.approx(math.log(chance / (1 - chance)), rel=1e-9)


def test_nothing_is_proven_by_a_coin() -> None:
    assert lower_bound(1000, 1000, 500, 0.0) == 0.0
    assert lower_bound(4, 4, 4, 0.0) == 0.0  # 1 / 16 is above 0.05
    assert lower_bound(5, 5, 5, 0.0) > 0.0
    assert lower_bound(10, 0, 0, 0.0) == 0.0


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 300).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r))),
    st.integers(0, 300),
    st.floats(0, 1e-3),
)
def test_more_right_guesses_prove_more(case: tuple[int, int], unguessed: int, delta: float) -> None:
    guesses, correct = case
    canaries = guesses + unguessed
    bounds = [lower_bound(canaries, guesses, v, delta) for v in range(max(0, correct - 3), correct + 1)]
    assert all(low <= high for low, high in pairwise(bounds))
    assert lower_bound(canaries, guesses, correct, 0.0) >= bounds[-1]
    assert lower_bound(canaries, guesses, correct, delta, confidence=0.99) <= bounds[-1]
    assert bounds[-1] <= provable(canaries, guesses, delta)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 4.0])
@pytest.mark.parametrize(("canaries", "delta"), [(50, 0.0), (200, 1e-3), (1000, 1e-5)])
def test_private_mechanisms_exceed_their_epsilon_seldom(epsilon: float, canaries: int, delta: float) -> None:
    """Three mechanisms that are exactly (ε, δ)-private; the probability of a false alarm is computed, not sampled.

    Each answers every coin at random, rightly with probability p = e^ε / (1 + e^ε); and each gives coins away with
    probability δ: none of them (δ unused), every coin for itself, or all at once.
    """
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    counts = range(canaries + 1)
    alarms = counts[
        bisect_left(counts, True, key=lambda v: lower_bound(canaries, canaries, v, delta) > epsilon + 1e-9) :
    ]
    plain, each = (binomial_log(canaries, p) for p in (right, delta + (1 - delta) * right))
    assert sum(plain[v] for v in alarms) <= 0.05
    assert sum(each[v] for v in alarms) <= 0.05
    assert sum((1 - delta) * plain[v] + delta * (v == canaries) for v in alarms) <= 0.05
    if alarms and delta == 0 and epsilon > 0:
        # And the bound is not slack: one right guess less would raise it too often.
        assert sum(plain[min(alarms) - 1 :]) > 0.05


def binomial_log(trials: int, probability: float) -> list[float]:
    """As `binomial`, for many trials."""
    return [
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(probability)
            + (trials - k) * math.log1p(-probability)
        )
        for k in range(trials + 1)
    ]


@pytest.mark.parametrize(
    "case",
    [(10, 11, 5, 1.0, 0.0), (10, 5, 6, 1.0, 0.0), (10, 5, -1, 1.0, 0.0), (9, 5, 3, -1.0, 0.0), (9, 5, 3, 1.0, 2.0)],
)
def test_impossible_counts_are_refused(case: tuple[int, int, int, float, float]) -> None:
    with pytest.raises(ValueError, match=r"guesses|epsilon"):
        p_value(*case)
