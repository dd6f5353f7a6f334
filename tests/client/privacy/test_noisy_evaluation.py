"""The release of score histograms: how far one unit can move it, and that all of it is noised."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms, unit_shares
from melfed.common.errors import DataError, StudyError
from melfed.common.metrics.noisy_histogram import SCALE, SENSITIVITY, SHARES, WEIGHTS, NoisyHistogram
from melfed.common.metrics.score_edges import SCORE_BINS, score_edges
from tests.common.noisy import EDGES, SeededNoise

IMAGE = st.tuples(st.floats(-60, 60) | st.just(np.inf), st.integers(0, 1))
UNIT = st.lists(IMAGE, min_size=1, max_size=14)
OTHERS = st.lists(st.tuples(IMAGE, st.integers(0, 4)), max_size=20)


def exact(images: list[tuple[float, int]], units: list[str]) -> NoisyHistogram:
    return binned(images, units, EDGES)


def binned(images: list[tuple[float, int]], units: list[str], edges: npt.NDArray[np.float64]) -> NoisyHistogram:
    scores = ([x for x, _ in images], [y for _, y in images], units)
    return noised_histograms({"test": scores}, 0.0, NoiseSource(), edges)["test"]


def distance(a: NoisyHistogram, b: NoisyHistogram) -> float:
    return float(np.linalg.norm(np.concatenate((a.positives - b.positives, a.negatives - b.negatives)).astype(float)))


@settings(deadline=None, max_examples=200)
@given(OTHERS, UNIT, st.floats(-100, 100), st.integers(-20, 20))
def test_no_unit_moves_the_release_further_than_the_sensitivity(
    others: list[tuple[tuple[float, int], int]], unit: list[tuple[float, int]], centre: float, power: int
) -> None:
    """Whatever the model is that the edges follow from."""
    edges = score_edges({"head.weight": np.float32([2.0**power]), "head.bias": np.float32([centre])})
    images, units = [image for image, _ in others], [f"other {i}" for _, i in others]
    without = binned(images, units, edges)
    assert distance(binned(images + unit, units + ["it"] * len(unit), edges), without) <= SENSITIVITY


def test_the_sensitivity_is_reached_by_every_kind_of_unit() -> None:
    nobody = exact([], [])
    for unit in ([(99.0, 0)] * 12, [(-99.0, 1)], [(-99.0, 1), (-99.0, 1), (99.0, 0)]):
        moved = distance(exact(unit, ["it"] * len(unit)), nobody)
        assert 0.998 * SENSITIVITY < moved <= SENSITIVITY


def test_a_unit_counts_once_however_many_images_it_has() -> None:
    units = ["a"] * 3 + ["b"] * 13 + ["c"] * 2
    p = [-3.1, -2.2, -1.3] + [0.9] * 13 + [-0.4, 0.7]
    shares = unit_shares(p, [0] * 3 + [1] * 13 + [0, 1], units, EDGES)
    # a: one to the others; b: one to the melanomas (13 shares, rounded down); c: 3/5 and 4/5
    assert shares["negatives"].sum() == SHARES + SHARES * 3 // 5
    assert shares["positives"].sum() == 13 * (SHARES // 13) + SHARES * 4 // 5
    assert sorted(shares["negatives"][shares["negatives"] > 0]) == [SHARES // 3] * 3 + [SHARES * 3 // 5]


def test_every_measurement_of_every_part_gets_noise_of_its_own() -> None:
    noise = SeededNoise(3)
    parts = {"validation": ([0.2, 0.9], [0, 1], ["a", "b"]), "test": ([0.4], [1], ["c"])}
    found = noised_histograms(parts, 1.5, noise, EDGES)  # type: ignore[arg-type]
    assert noise.stds == [1.5 * SENSITIVITY] * 4
    residues = []
    for part, scores in parts.items():
        shares = unit_shares(*scores, EDGES)
        residues += [getattr(found[part], name) - WEIGHTS[name] @ shares[name] for name in ("positives", "negatives")]  # type: ignore[index]
    again = SeededNoise(3)
    assert np.array_equal(residues, [again.integers_gaussian((SCORE_BINS,), 1.5 * SENSITIVITY) for _ in range(4)])
    assert found["test"].noise_std == pytest.approx(1.5 * SENSITIVITY / SCALE)
    assert found["test"].noise_std >= 1.5 * SENSITIVITY / SCALE


def test_the_clinic_s_own_source_of_noise_never_repeats() -> None:
    """False alarm: two equal draws of 192 numbers with a deviation of millions."""
    parts = {"test": ([0.4], [1], ["c"])}
    first, second = (noised_histograms(parts, 1.0, NoiseSource(), EDGES)["test"] for _ in range(2))  # type: ignore[arg-type]
    assert (first.positives != second.positives).mean() > 0.9
    assert (first.negatives != second.negatives).mean() > 0.9


def test_nobody_s_histogram_is_noised_as_well() -> None:
    found = noised_histograms({"test": ([], [], [])}, 1.0, SeededNoise(1), EDGES)["test"]  # type: ignore[arg-type]
    assert found.positives.any()
    assert found.negatives.any()


@pytest.mark.parametrize("multiplier", [-0.1, float("nan"), float("inf"), 10_001.0])
def test_impossible_noise_is_refused(multiplier: float) -> None:
    with pytest.raises(StudyError, match="from 0 to 10000"):
        noised_histograms({"test": ([0.4], [1], ["c"])}, multiplier, NoiseSource(), EDGES)


def test_a_unit_in_both_parts_is_refused_without_its_name() -> None:
    parts = {"validation": ([0.2], [0], ["Anna"]), "test": ([0.4, 0.3], [1, 0], ["Berta", "Anna"])}
    with pytest.raises(DataError, match="validation and in the test part") as caught:
        noised_histograms(parts, 1.0, NoiseSource(), EDGES)  # type: ignore[arg-type]
    assert "Anna" not in str(caught.value)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(DataError, match="not a number"):
        noised_histograms({"test": ([np.nan], [1], ["c"])}, 1.0, NoiseSource(), EDGES)
    with pytest.raises(DataError, match="one of each"):
        noised_histograms({"test": ([0.5, 0.5], [1], ["c"])}, 1.0, NoiseSource(), EDGES)
