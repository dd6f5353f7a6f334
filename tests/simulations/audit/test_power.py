"""What the best auditor needs, against closed forms and against trials."""

import math

import numpy as np
import pytest

from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.accounting import epsilon as accounted
from tests.simulations.audit.power import gaussian_delta, gaussian_mu, trials_needed


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (3.0, 1e-5), (2.0, 1e-3)])
def test_the_gaussian_is_that_of_the_accounting(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert gaussian_delta(mu, epsilon) == pytest.approx(delta, rel=1e-6)
    assert accounted([Mechanism(1.0, 1 / mu, 1)], delta) == pytest.approx(epsilon, rel=2e-3)


@pytest.mark.parametrize("epsilon", [1.0, 2.0, 3.0])
def test_what_is_right_is_never_refuted_and_more_is_refuted_sooner(epsilon: float) -> None:
    needed = [trials_needed(shift, epsilon, 1e-5) for shift in (1.0, 1.003, 1.99, 5.0, 50.0)]
    assert needed[0] > 1e15  # but for rounding: infinite
    assert needed == sorted(needed, reverse=True)
    assert needed[1] > 1e9
    assert 2000 < needed[2] < 10_000
    assert needed[4] < 10


def test_so_many_trials_refute_every_other_time() -> None:
    """By trials of the very set that is said to be the best: the estimate is above 1.64 deviations half the time."""
    epsilon, delta, shift = 1.0, 1e-5, 5.0
    mu, trials = shift * gaussian_mu(epsilon, delta), round(trials_needed(shift, epsilon, delta))
    random, refuted = np.random.default_rng(1), 0
    thresholds = np.linspace(-1, 4, 51)
    found = []
    for threshold in thresholds:
        out = random.normal(0, 1, (2000, trials // 2)) > threshold
        inside = random.normal(mu, 1, (2000, trials // 2)) > threshold
        excess = inside.mean(1) - math.e * out.mean(1) - delta
        deviation = math.sqrt(2 * (inside.mean() + math.e**2 * out.mean()) / trials)
        found.append((excess > 1.645 * deviation).mean())
    refuted = max(found)
    assert 0.35 < refuted < 0.75
