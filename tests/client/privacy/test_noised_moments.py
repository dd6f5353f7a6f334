"""The release of moments: how far one unit can move it, and that all of it is noised."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noised_moments import noised_moments, unit_moments
from melfed.common.errors import DataError, StudyError
from melfed.common.moments.noisy_moments import CLASSES, SCALE, SENSITIVITY, NoisyMoments, length_of
from tests.common.noisy import SeededNoise

D = 3
NUMBER = st.floats(-2, 2, width=32) | st.sampled_from((0.0, 1e30, -1e-30, np.inf, np.nan))
IMAGE = st.tuples(st.lists(NUMBER, min_size=D, max_size=D), st.integers(0, 1))
UNIT = st.lists(IMAGE, min_size=1, max_size=9)
OTHERS = st.lists(st.tuples(IMAGE, st.integers(0, 3)), max_size=12)
Images = list[tuple[list[float], int]]


def exact(images: Images, units: list[str]) -> npt.NDArray[np.int64]:
    features = np.array([x for x, _ in images], np.float32).reshape(len(images), D)
    moments = unit_moments(features, [y for _, y in images], units)
    return np.concatenate([moments[name] for name in CLASSES])


@settings(deadline=None, max_examples=300)
@given(OTHERS, UNIT)
def test_no_unit_moves_the_release_further_than_the_sensitivity(
    others: list[tuple[tuple[list[float], int], int]], unit: Images
) -> None:
    images, units = [image for image, _ in others], [f"other {i}" for _, i in others]
    moved = exact(images + unit, units + ["it"] * len(unit)) - exact(images, units)
    assert sum(int(number) ** 2 for number in moved) <= SENSITIVITY**2


def test_the_sensitivity_is_reached_by_every_kind_of_unit() -> None:
    long = [9.0, 9.0, 9.0]
    for unit in ([(long, 0)] * 12, [([0.0, 1.0, 0.0], 1)], [(long, 1), (long, 1), (long, 0)]):
        moved = exact(unit, ["it"] * len(unit)).astype(float)
        assert 0.999999 * SENSITIVITY < np.linalg.norm(moved) <= SENSITIVITY


def test_a_unit_is_the_mean_of_its_images_and_weighs_once() -> None:
    features = np.array([[0.5, 0, 0], [0, 3, 0], [0.25, 0, 0]], np.float32)
    moments = unit_moments(features, [1, 1, 0], ["a", "a", "a"])
    positive = NoisyMoments(moments["positives"], moments["negatives"], np.zeros(1))
    assert positive.count("positives") == pytest.approx(0.8, abs=1e-6)
    assert positive.total("positives") == pytest.approx(0.8 * np.array([0.25, 0.5, 0]), abs=1e-6)
    mean = np.array([0.25, 0.5, 0])
    assert positive.second("positives") == pytest.approx(0.8 * np.outer(mean, mean), abs=1e-6)
    assert positive.count("negatives") == pytest.approx(0.6, abs=1e-6)
    assert positive.second("negatives") == pytest.approx(0.6 * np.diag([1 / 16, 0, 0]), abs=1e-6)


def test_whoever_comes_first_the_moments_are_the_same() -> None:
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(700, D)).astype(np.float32), random.integers(0, 2, 700)
    units, order = [f"u{n}" for n in range(700)], random.permutation(700)
    one = unit_moments(features, targets, units)
    other = unit_moments(features[order], targets[order], [units[n] for n in order])
    assert all(np.array_equal(one[name], other[name]) for name in CLASSES)


def test_every_number_has_noise_of_the_stated_variance() -> None:
    nobody = np.zeros((0, 40), np.float32)
    made = noised_moments({"train": (nobody, [], [])}, 2.0, SeededNoise(0))["train"]  # type: ignore[arg-type]
    drawn = np.concatenate([made.positives, made.negatives]).astype(float)
    assert len(drawn) == 2 * length_of(40)
    assert drawn.std() == pytest.approx(2.0 * SENSITIVITY, rel=0.05)
    assert made.noise_std == pytest.approx(2.0 * np.sqrt(3), rel=1e-6)
    assert made.noise_variance[0] == pytest.approx((2 * SENSITIVITY) ** 2)
    assert pytest.approx(np.sqrt(3), rel=1e-7) == SENSITIVITY / SCALE


def test_a_unit_in_two_parts_is_refused() -> None:
    one = (np.zeros((1, D), np.float32), [1], ["it"])
    with pytest.raises(DataError, match="in the training and in the validation part"):
        noised_moments({"train": one, "validation": one}, 1.0, NoiseSource())


@pytest.mark.parametrize("sigma", [-1.0, np.nan])
def test_no_noise_that_is_none(sigma: float) -> None:
    with pytest.raises(StudyError, match="noise multiplier"):
        noised_moments({}, sigma, NoiseSource())


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DataError, match="2 rows of features, 1 targets"):
        unit_moments(np.zeros((2, D), np.float32), [0], ["a", "b"])
    with pytest.raises(DataError, match="neither 0 nor 1"):
        unit_moments(np.zeros((1, D), np.float32), [2], ["a"])
