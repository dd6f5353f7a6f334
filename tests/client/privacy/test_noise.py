"""The noise is Gaussian, independent, and follows from nothing but the operating system's randomness.

The statistical tests inject fixed entropy, so they cannot fail by chance; for new entropy each would do so with
probability below 1e-6.
"""

import inspect
import math
import os
import random

import numpy as np
import pytest
import torch
from scipy import stats

from melfed.client.privacy import noise
from melfed.client.privacy.noise import NoiseSource
from melfed.common.errors import StudyError

FALSE_ALARM = 1e-6
Z = 4.9
"""A standard normal is farther from 0 than this with probability 9.6e-7."""
COUNT = 400_000


def fixed(seed: int) -> NoiseSource:
    return NoiseSource(random.Random(seed).randbytes)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Many draws at standard deviation 3, as standard normals."""
    return fixed(1).gaussian((COUNT,), 3.0) / 3


def test_draws_are_normal(drawn):
    assert stats.kstest(drawn, "norm").pvalue > FALSE_ALARM


@pytest.mark.parametrize(("power", "mean", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)])
def test_moments_are_those_of_the_normal(drawn, power, mean, variance):
    assert abs((drawn**power).mean() - mean) < Z * math.sqrt(variance / COUNT)


@pytest.mark.parametrize("bound", [1.0, 2.0, 3.0, 4.0])
def test_both_tails_hold_what_they_should(drawn, bound):
    expected = stats.norm.sf(bound)
    for tail in (drawn > bound, drawn < -bound):
        assert stats.binomtest(int(tail.sum()), COUNT, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, noise._CHUNK // 2, noise._CHUNK, COUNT // 2])
def test_draws_of_a_source_are_independent(drawn, lag, power):
    """Correlations, also of the squares: the two numbers of a pair share their radii and must still be independent."""
    values = (drawn**power - (power == 2)) / math.sqrt(power)
    assert abs((values[lag:] * values[:-lag]).sum()) < Z * math.sqrt(COUNT - lag)


def test_sources_and_calls_are_independent():
    """Half of the sources have true entropy: a false alarm at 5.5 has probability 4e-8, and there are 10 pairs."""
    one, other = fixed(2), fixed(3)
    draws = [source.gaussian((COUNT // 20,), 1.0) for source in (one, one, other, NoiseSource(), NoiseSource())]
    for first, draw in enumerate(draws):
        for second in draws[:first]:
            assert not np.isin(draw, second).any()
            assert abs((draw * second).sum()) < 5.5 * math.sqrt(draw.size)


def test_global_seeds_have_no_say():
    draws = []
    for _ in range(3):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        draws.append(NoiseSource().gaussian((3,), 1.0))
    assert len(np.unique(draws)) == 9


def test_every_call_takes_a_new_key_from_the_operating_system():
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    source = NoiseSource(entropy)
    for _ in range(3):
        source.gaussian((2, 5), 1.0)
    source.integers_gaussian((7,), 2.0)
    assert asked == [32] * 4
    assert inspect.signature(NoiseSource).parameters["entropy"].default is os.urandom


@pytest.mark.parametrize("count", [0, 1, 2, 3, noise._CHUNK - 1, noise._CHUNK, noise._CHUNK + 1, 3 * noise._CHUNK + 7])
def test_every_number_is_drawn_once(count):
    assert len(np.unique(fixed(4).gaussian((count,), 1.0))) == count


def test_shape_and_scale():
    assert fixed(5).gaussian((), 1.0).shape == ()
    unit, scaled = (fixed(5).gaussian((3, 4, 5), std) for std in (1.0, 2.5))
    assert unit.shape == (3, 4, 5)
    assert unit.dtype == np.float64
    np.testing.assert_allclose(scaled, 2.5 * unit, rtol=1e-15)


def test_without_a_deviation_there_is_no_noise():
    assert not NoiseSource().gaussian((4, 2), 0.0).any()
    assert not NoiseSource().integers_gaussian((4, 2), 0.0).any()


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused(std):
    for draw in (NoiseSource().gaussian, NoiseSource().integers_gaussian):
        with pytest.raises(StudyError, match="standard deviation of") as excinfo:
            draw((1,), std)
        assert str(std) in str(excinfo.value)
        assert "\n" not in str(excinfo.value)


def test_integers_that_would_overflow_are_refused():
    with pytest.raises(StudyError, match="2e\\+15"):
        NoiseSource().integers_gaussian((1,), 2e15)


class Words:
    """A stream that repeats two words: one for radii, one for angles."""

    def __init__(self, radius: int, angle: int) -> None:
        self.words = (radius, angle)
        self.bytes = 0

    def update(self, data: bytes) -> bytes:
        self.bytes += len(data)
        return np.repeat(np.array(self.words, dtype=np.int64), len(data) // 16).tobytes()


@pytest.mark.parametrize("radius", [0, 1, -1, 2**62, -(2**63), 2**63 - 1])
def test_four_normals_of_box_and_muller_are_summed(radius):
    stream = Words(radius, 2**61)
    numbers = noise._summed_normals(stream, 10)
    assert stream.bytes == 10 * 4 * 8  # a word for each summand
    length = math.sqrt(max(0.0, -2 * math.log((abs(radius) + 0.5) / 2**63)))
    expected = np.repeat([math.cos(math.pi / 4), math.sin(math.pi / 4)], 5) * length * 4 / 2
    np.testing.assert_allclose(numbers, expected, rtol=1e-12)


def rounded_gaussian(integers: np.ndarray, std: float) -> np.ndarray:
    """Probabilities of integers under N(0, std²) rounded; differences in the nearer tail, for their digits."""
    magnitude = np.abs(integers)
    return stats.norm.sf((magnitude - 0.5) / std) - stats.norm.sf((magnitude + 0.5) / std)


def discrete_gaussian(integers: np.ndarray, std: float) -> np.ndarray:
    weights = np.exp(-(np.arange(-400, 401) ** 2) / (2 * std**2))
    return np.exp(-(integers**2) / (2 * std**2)) / weights.sum()


@pytest.mark.parametrize(("std", "reach"), [(0.5, 2), (1.0, 4), (3.3, 12)])
def test_integers_have_the_probabilities_of_the_rounded_gaussian(std, reach):
    draws = fixed(6).integers_gaussian((COUNT,), std)
    assert draws.dtype == np.int64
    inner = np.arange(-reach, reach + 1)
    observed = [(draws < -reach).sum(), *((draws == value).sum() for value in inner), (draws > reach).sum()]
    tail = stats.norm.sf((reach + 0.5) / std)
    expected = np.array([tail, *rounded_gaussian(inner, std), tail])
    assert stats.chisquare(observed, expected * COUNT).pvalue > FALSE_ALARM


def hockey_stick(probabilities: np.ndarray, epsilon: float) -> float:
    """δ of adding one to a count, for noise with these probabilities on a run of integers."""
    return float(np.maximum(probabilities[1:] - math.exp(epsilon) * probabilities[:-1], 0).sum())


@pytest.mark.parametrize("std", [0.4, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 4.0])
def test_rounding_costs_no_privacy(std, epsilon):
    """The claim that lets counts be accounted as Gaussian, against theorem 8 of Balle & Wang (arXiv 1805.06530)."""
    upper, lower = stats.norm.cdf([0.5 / std - epsilon * std, -0.5 / std - epsilon * std])
    gaussian = upper - math.exp(epsilon) * lower
    integers = np.arange(-400, 401)
    assert hockey_stick(rounded_gaussian(integers, std), epsilon) <= gaussian + 1e-15


def test_the_discrete_gaussian_would_cost_more_than_is_accounted():
    assert hockey_stick(discrete_gaussian(np.arange(-400, 401), 1.0), 0.0) == pytest.approx(0.399, abs=5e-4)
    assert stats.norm.cdf(0.5) - stats.norm.cdf(-0.5) == pytest.approx(0.383, abs=5e-4)


def test_noise_on_clipped_sums_is_wider_by_what_rounding_can_add():
    assert noise.clipped_sum_std(2.0, 0.5) == pytest.approx(1.008)
    assert noise.clipped_sum_std(0.0, 0.5) == 0
