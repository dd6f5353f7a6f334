"""Accounting: against closed forms, dp-accounting called plainly, Opacus, and what must hold of any accountant."""

import math
import random

import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism, cross_check, delta_warning, epsilon, noise_multiplier
from melfed.common.errors import StudyError

DELTA = 1e-5
EXAMPLES = settings(deadline=None, max_examples=5)

mechanisms = st.builds(
    Mechanism,
    st.sampled_from([0.01, 0.05, 0.2, 0.7, 1.0]),
    st.floats(0.6, 20.0),
    st.integers(1, 60),
)
histories = st.lists(mechanisms, min_size=1, max_size=3)
deltas = st.sampled_from([1e-3, 1e-5, 1e-8])


def gaussian_epsilon(mu: float, delta: float) -> float:
    """ε of the Gaussian mechanism with σ = 1/μ: theorem 8 of Balle & Wang (arXiv 1805.06530)."""

    def excess(candidate: float) -> float:
        upper = math.exp(log_ndtr(mu / 2 - candidate / mu))
        return upper - math.exp(candidate + log_ndtr(-mu / 2 - candidate / mu)) - delta

    return brentq(excess, 0, mu**2 + 40 * mu, xtol=1e-12) if excess(0) > 0 else 0.0


@pytest.mark.parametrize(
    ("units", "batch", "noise", "steps", "published"),
    [
        (500, 64, 2.0, 100, 3.07),
        (2000, 128, 1.0, 500, 9.92),
        (10000, 256, 1.0, 1000, 5.13),
        (10000, 256, 2.0, 5000, 4.26),
    ],
)
def test_known_settings(units, batch, noise, steps, published):
    """Values computed once with PLD; RDP says 3.37, 10.89, 5.66 and 4.61."""
    assert epsilon([Mechanism(batch / units, noise, steps)], DELTA) == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(0.1, 2.0, 200), (0.02, 0.8, 500), (0.5, 4.0, 30), (0.9, 20.0, 3)]
)
@pytest.mark.parametrize("delta", [1e-3, 1e-8])
def test_agrees_with_dp_accounting_called_plainly(rate, noise, steps, delta):
    plain = from_gaussian_mechanism(noise, sampling_prob=rate).self_compose(steps).get_epsilon_for_delta(delta)
    assert epsilon([Mechanism(rate, noise, steps)], delta) == pytest.approx(plain, rel=3e-5)


@EXAMPLES
@given(st.lists(st.tuples(st.floats(2.0, 50.0), st.integers(1, 200)), min_size=1, max_size=4), deltas)
def test_full_batches_cost_what_the_closed_form_says_and_never_less(rows, delta):
    exact = gaussian_epsilon(math.sqrt(sum(steps / noise**2 for noise, steps in rows)), delta)
    spent = epsilon([Mechanism(1.0, noise, steps) for noise, steps in rows], delta)
    assert exact * (1 - 1e-12) <= spent <= exact * (1 + 1e-5) + 1e-7


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 30), (400.0, 2000), (2.0, 200)])
@pytest.mark.parametrize("delta", [1e-5, 1e-10, 1e-12])
def test_convolution_never_costs_less_than_the_truth(monkeypatch, noise, steps, delta):
    """The numerics of sampled steps on full batches, whose truth is known: convolved here, not merged."""
    monkeypatch.setattr(accounting, "_one_gaussian", lambda rows: rows)
    accounting._epsilon.cache_clear()
    exact = gaussian_epsilon(math.sqrt(steps) / noise, delta)
    spent = epsilon([Mechanism(1.0, noise, steps)], delta)
    accounting._epsilon.cache_clear()
    assert exact <= spent <= exact * (1.001 if delta > 1e-11 else 1.03)


def test_sampling_below_one_tends_to_the_full_batch():
    full, nearly = (epsilon([Mechanism(rate, 4.0, 20)], DELTA) for rate in (1.0, 0.99999))
    assert nearly == pytest.approx(full, rel=1e-3)


@EXAMPLES
@given(histories, deltas, st.randoms())
def test_order_and_partition_of_the_history_do_not_matter(history, delta, shuffler):
    pieces = [Mechanism(m.sampling_rate, m.noise_multiplier, 1) for m in history]
    pieces += [Mechanism(m.sampling_rate, m.noise_multiplier, m.steps - 1) for m in history]
    shuffler.shuffle(pieces)
    assert epsilon(pieces, delta) == epsilon(history, delta)


@EXAMPLES
@given(histories, mechanisms, deltas)
def test_more_costs_more(history, added, delta):
    spent = epsilon(history, delta)
    first, *rest = history
    rate, noise, steps = first.sampling_rate, first.noise_multiplier, first.steps
    slack = spent * 1e-9 - 1e-12  # of the Fourier transform
    assert epsilon([*history, added], delta) >= spent - abs(slack)
    assert epsilon([Mechanism(rate, noise, 2 * steps), *rest], delta) >= spent - abs(slack)
    assert epsilon([Mechanism(rate, noise / 1.3, steps), *rest], delta) >= spent - abs(slack)
    assert epsilon([Mechanism(min(1.0, rate * 1.3), noise, steps), *rest], delta) >= spent - abs(slack)
    assert epsilon(history, delta / 10) >= spent


def test_a_round_at_a_time_costs_strictly_more():
    spent = [epsilon([Mechanism(0.1, 2.0, 10 * rounds), Mechanism(1.0, 30.0, rounds)], DELTA) for rounds in range(1, 6)]
    assert spent == sorted(set(spent))


def test_nothing_done_costs_nothing():
    assert epsilon([], DELTA) == 0
    assert epsilon([Mechanism(0.5, 1.0, 0), Mechanism(1.0, 0.0, 0)], DELTA) == 0


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-300])
def test_no_noise_is_no_privacy(noise):
    assert epsilon([Mechanism(0.1, 2.0, 10), Mechanism(0.01, noise, 1)], DELTA) == math.inf


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_an_epsilon_beyond_the_arithmetic_is_infinite(rate):
    """dp-accounting's own answers overflow between 709 and 745, and come back after."""
    spent = [epsilon([Mechanism(rate, noise, 50)], DELTA) for noise in (0.4, 0.22, 0.1, 0.001)]
    assert spent == sorted(spent)
    assert spent[0] < 400
    assert spent[-2:] == [math.inf, math.inf]
    assert epsilon([Mechanism(rate, noise_multiplier(1e4, DELTA, rate, 50), 50)], DELTA) == pytest.approx(699, abs=2)


def test_a_delta_below_the_arithmetic_costs_everything_rather_than_too_little():
    assert epsilon([Mechanism(0.1, 2.0, 10)], 1e-16) == math.inf
    with pytest.raises(StudyError, match="delta 1e-16"):
        noise_multiplier(1.0, 1e-16, 0.1, 10)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, float("nan")])
def test_a_delta_that_is_none_is_refused(delta):
    for ask in (
        lambda: epsilon([], delta),
        lambda: noise_multiplier(1.0, delta, 0.1, 10),
        lambda: cross_check([], delta),
    ):
        with pytest.raises(StudyError, match=f"delta {delta:g} is outside") as excinfo:
            ask()
        assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.0, 1.0, 1), "sampling_rate 0 "),
        ((1.5, 1.0, 1), "sampling_rate 1.5 "),
        ((float("nan"), 1.0, 1), "sampling_rate nan "),
        ((0.5, -1.0, 1), "noise_multiplier -1 "),
        ((0.5, float("inf"), 1), "noise_multiplier inf "),
        ((0.5, float("nan"), 1), "noise_multiplier nan "),
        ((0.5, 1.0, -2), "steps -2 "),
    ],
)
def test_a_mechanism_that_is_none_is_refused(values, said):
    with pytest.raises(StudyError, match=said) as excinfo:
        Mechanism(*values)
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [(3.0, 1e-5, 1.0, 30), (1.0, 1e-5, 0.1, 200), (8.0, 1e-6, 0.02, 100), (0.1, 1e-4, 0.5, 5), (60.0, 1e-5, 0.3, 10)],
)
def test_the_noise_is_enough_and_hardly_more(target, delta, rate, steps):
    noise = noise_multiplier(target, delta, rate, steps)
    assert epsilon([Mechanism(rate, noise, steps)], delta) <= target
    assert epsilon([Mechanism(rate, noise / (1 + 1e-3), steps)], delta) > target


@pytest.mark.parametrize("target", [0.5, 3.0, 20.0])
def test_the_noise_of_full_batches_is_that_of_the_closed_form(target):
    mu = brentq(lambda mu: gaussian_epsilon(mu, DELTA) - target, 1e-3, 50)
    assert 1 - 1e-9 <= noise_multiplier(target, DELTA, 1.0, 30) * mu / math.sqrt(30) <= 1 + 1e-3


def test_what_else_is_spent_is_left_room():
    others = [Mechanism(1.0, 20.0, 10), Mechanism(0.1, 3.0, 100)]
    noise = noise_multiplier(3.0, DELTA, 0.1, 100, others)
    assert epsilon([Mechanism(0.1, noise, 100), *others], DELTA) <= 3.0
    assert epsilon([Mechanism(0.1, noise / (1 + 1e-3), 100), *others], DELTA) > 3.0
    assert noise > 1.1 * noise_multiplier(3.0, DELTA, 0.1, 100)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((1.0, DELTA, 0.1, 10, [Mechanism(1.0, 1.0, 1)]), ["epsilon 1 ", "is spent", "costs 4.377"]),
        ((1.0, DELTA, 0.1, 10, [Mechanism(1.0, 0.0, 1)]), ["is spent", "costs inf"]),
        ((1e-7, 1e-12, 1.0, 1_000_000), ["no noise multiplier up to 1e+06", "1000000 steps", "epsilon 1e-07"]),
        ((0.0, DELTA, 0.1, 10), ["epsilon 0 "]),
        ((float("nan"), DELTA, 0.1, 10), ["epsilon nan "]),
        ((float("inf"), DELTA, 0.1, 10), ["epsilon inf "]),
        ((1.0, DELTA, 0.1, 0), ["steps 0 "]),
        ((1.0, DELTA, 1.1, 10), ["sampling_rate 1.1 "]),
    ],
)
def test_what_no_noise_can_do_is_refused(arguments, said):
    with pytest.raises(StudyError) as excinfo:
        noise_multiplier(*arguments)
    for words in said:
        assert words in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


def test_where_sampling_alone_is_enough_the_least_noise_is_returned():
    """A unit takes part with probability 1e-6 < δ, so even its publication would be within δ."""
    assert noise_multiplier(1.0, 1e-3, 1e-6, 1) == 1e-3
    assert epsilon([Mechanism(1e-6, 1e-3, 1)], 1e-3) == 0


CHECKED = [
    [Mechanism(1.0, 5.0, 30)],
    [Mechanism(0.1, 2.0, 200)],
    [Mechanism(0.02, 0.8, 500)],
    [Mechanism(0.9, 20.0, 3)],
    [Mechanism(0.005, 1.0, 300)],
    [Mechanism(1.0, 30.0, 10), Mechanism(0.05, 2.0, 300)],
    [Mechanism(1.0, 0.5, 30)],
]


DELTAS = [1e-3, 1e-5, 1e-8, 1e-4, 1e-6, 1e-5, 1e-5]


@pytest.mark.parametrize(("history", "delta"), list(zip(CHECKED, DELTAS, strict=True)))
def test_three_accountants_agree(history, delta):
    checked = cross_check(history, delta)
    assert checked.pld == epsilon(history, delta)
    # The measured slack of PRV is the error that it is given: half of what is tolerated.
    assert checked.pld < checked.prv < checked.pld + 1.1 * max(0.01, 0.01 * checked.pld)
    assert checked.pld < checked.rdp


def test_random_histories_are_checked_without_complaint():
    dice = random.Random(3)
    for _ in range(3):
        history = [
            Mechanism(dice.choice([0.01, 0.1, 0.5, 1.0]), 10 ** dice.uniform(0, 1.5), dice.randint(1, 100))
            for _ in range(dice.randint(1, 3))
        ]
        cross_check(history, 10 ** dice.uniform(-8, -2))


def test_prv_is_not_asked_where_it_fails():
    assert cross_check([], DELTA) == accounting.CrossCheck(0.0, None, 0.0)
    assert cross_check([Mechanism(1.0, 0.0, 1)], DELTA) == accounting.CrossCheck(math.inf, None, math.inf)
    assert cross_check([Mechanism(1.0, 0.2, 30)], DELTA).prv is None  # ε above 300
    assert cross_check([Mechanism(0.1, 2.0, 10)], 1e-10).prv is None
    assert cross_check([Mechanism(1.0, 50.0, 1)], 0.3) == accounting.CrossCheck(0.0, None, 0.0)
    assert cross_check([Mechanism(1.0, 50.0 + extra, 1) for extra in range(9)], DELTA).prv is None


@pytest.mark.parametrize(
    ("accountant", "wrong"), [("_prv", 0.95), ("_prv", 1.05), ("_rdp", 0.95), ("_rdp", 2.4), ("_rdp", math.nan)]
)
def test_a_disagreement_is_an_error(monkeypatch, accountant, wrong):
    history = [Mechanism(0.1, 2.0, 200)]
    monkeypatch.setattr(accounting, accountant, lambda *_: wrong * epsilon(history, DELTA))
    with pytest.raises(StudyError, match=f"the {accountant[1:].upper()} accountant says epsilon") as excinfo:
        cross_check(history, DELTA)
    assert "PLD says 3.3596" in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("delta", "units", "warned"),
    [
        (1e-5, 1000, False),
        (1e-5, 99_999, False),
        (1e-5, 100_000, True),
        (0.5, 1, False),
        (0.5, 2, True),
        (0.5, 0, False),
    ],
)
def test_a_delta_not_below_one_over_the_units_is_warned_of(delta, units, warned):
    warning = delta_warning(delta, units)
    assert (warning is not None) == warned
    if warning:
        assert f"N = {units} units" in warning
        assert "\n" not in warning


def test_answers_are_remembered(monkeypatch):
    history = [Mechanism(0.2, 3.0, 17)]
    first = epsilon(history, DELTA)
    monkeypatch.setattr(accounting, "_losses", None)  # computing again would fail
    assert epsilon([Mechanism(0.2, 3.0, 7), Mechanism(0.2, 3.0, 10)], DELTA) == first


@pytest.mark.parametrize(("rate", "noise", "steps"), [(1e-4, 0.5, 3), (1.0, 0.001, 100), (0.02, 2.0, 100_000)])
def test_the_grid_has_a_bounded_number_of_points(rate, noise, steps):
    """Each point of a step costs some 10 µs: without a bound, rare sampling with little noise takes minutes."""
    row = Mechanism(rate, noise, steps)
    assert accounting._largest_loss(row) / accounting._interval([row]) < 210_000
