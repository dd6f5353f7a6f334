"""Poisson sampling is exact, and does not follow from a seed.

The statistical tests run on fixed seeds, so they cannot fail by chance; for a new seed each would do so with
probability below 1e-6.
"""

import secrets

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from melfed.client.privacy.sampling import poisson_sample, secure_generator
from melfed.common.errors import StudyError

FALSE_ALARM = 1e-6
Z = 4.9
"""A standard normal is farther from 0 than this with probability 9.6e-7."""
UNITS, RATE, STEPS = 200, 0.1, 4000


@pytest.fixture(scope="module")
def taken() -> np.ndarray:
    """Whether each of 200 units took part in each of 4000 steps."""
    random = np.random.default_rng(11)
    table = np.zeros((STEPS, UNITS), dtype=bool)
    for row in table:
        row[poisson_sample(UNITS, RATE, random)] = True
    return table


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 50), st.floats(1e-12, 1.0), st.integers(0, 2**32))
def test_a_sample_is_ascending_units_without_repetition(units, rate, seed):
    sample = poisson_sample(units, rate, np.random.default_rng(seed))
    assert sample.dtype == np.int64
    assert list(sample) == sorted(set(sample.tolist()))
    assert all(0 <= unit < units for unit in sample)


@given(st.integers(0, 300), st.integers(0, 2**32))
def test_at_rate_one_all_take_part(units, seed):
    assert poisson_sample(units, 1.0, np.random.default_rng(seed)).tolist() == list(range(units))


def test_a_sample_may_be_empty():
    random = np.random.default_rng(1)
    sizes = [len(poisson_sample(10, 0.1, random)) for _ in range(2000)]
    # (1 - 0.1)^10 = 0.349 of the samples
    assert stats.binomtest(sizes.count(0), 2000, 0.9**10).pvalue > FALSE_ALARM


def test_the_size_is_binomial(taken):
    """Chi-square over the pooled sizes of samples; a fixed size, or one of Poisson's law, has another distribution."""
    sizes = taken.sum(axis=1)
    edges = np.arange(11, 31)
    observed = np.histogram(np.clip(sizes, 11, 29), bins=edges)[0]
    law = stats.binom(UNITS, RATE)
    probabilities = np.diff(np.concatenate([[0], law.cdf(edges[:-2]), [1]]))
    assert stats.chisquare(observed, probabilities * STEPS).pvalue > FALSE_ALARM
    assert abs(sizes.var() / (UNITS * RATE * (1 - RATE)) - 1) < Z * np.sqrt(2 / STEPS)


def test_every_unit_takes_part_at_the_rate(taken):
    """Chi-square of the counts of all units, each binomial."""
    counts = taken.sum(axis=0)
    statistic = ((counts - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1 - RATE))
    assert stats.chi2(UNITS).sf(statistic) > FALSE_ALARM
    assert stats.chi2(UNITS).cdf(statistic) > FALSE_ALARM


def test_in_all_as_many_take_part_as_should(taken):
    assert stats.binomtest(int(taken.sum()), taken.size, RATE).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("step", "unit"), [(0, 1), (0, 100), (1, 0), (1, 1), (1, 199), (7, 0)])
def test_units_and_steps_are_independent(taken, step, unit):
    """Correlation of each indicator with that of another unit, or of another step."""
    centred = (taken - RATE) / np.sqrt(RATE * (1 - RATE))
    products = centred * np.roll(centred, (step, unit), axis=(0, 1))
    assert abs(products.sum()) < Z * np.sqrt(products.size)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(StudyError, match=f"sampling rate {rate:g}".replace("+", r"\+")) as excinfo:
        poisson_sample(10, rate, np.random.default_rng(0))
    assert "\n" not in str(excinfo.value)


def test_a_negative_number_of_units_is_refused():
    with pytest.raises(StudyError, match="-1 units"):
        poisson_sample(-1, 0.5, np.random.default_rng(0))


def test_generators_do_not_follow_from_global_seeds():
    drawn = []
    for _ in range(3):
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append(tuple(secure_generator().integers(0, 2**63, 2)))
    assert len(set(drawn)) == 3


def test_all_bits_of_the_seed_matter(monkeypatch):
    asked = []

    def zero_but(chosen: int):
        def bits(count: int) -> int:
            asked.append(count)
            return 1 << (count - 1) if len(asked) == chosen else 0

        asked.clear()
        return bits

    drawn = []
    for chosen in (0, 1, 2):
        monkeypatch.setattr(secrets, "randbits", zero_but(chosen))
        drawn.append(tuple(secure_generator().integers(0, 2**63, 2)))
    assert sum(asked) == 384
    assert len(set(drawn)) == 3
