"""Histograms merge exactly, travel, and refuse what no evaluation set can give."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from common.histogram import BINS, EDGES, MAX_IMAGES, UNIT, ScoreHistogram

Rows = list[tuple[float, int, int]]
SCORES = st.floats(0, 1) | st.sampled_from(
    [0.0, 1.0, 0.5, float(np.nextafter(0.5, 0)), 0.2, *EDGES[[0, 7, 600, -1]].tolist()]
)
ROWS = st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 8)), max_size=25)


def histogram(rows: Rows, clinic: str = "a") -> ScoreHistogram:
    return ScoreHistogram.from_scores(
        [p for p, _, _ in rows], [y for _, y, _ in rows], [f"{clinic}{group}" for _, _, group in rows]
    )


def same(a: ScoreHistogram, b: ScoreHistogram) -> bool:
    return all(np.array_equal(array, b.to_arrays()[name]) for name, array in a.to_arrays().items())


@settings(deadline=None, max_examples=100)
@given(ROWS, ROWS, ROWS)
def test_merging_is_the_histogram_of_all_images(a: Rows, b: Rows, c: Rows) -> None:
    x, y, z = histogram(a, "a"), histogram(b, "b"), histogram(c, "c")
    assert same((x + y) + z, x + (y + z))
    assert same(x + y, y + x)
    assert same(x + ScoreHistogram.empty(), x)
    rows = [(p, target, f"{name}{g}") for name, part in zip("abc", (a, b, c), strict=True) for p, target, g in part]
    p, targets, groups = ([row[i] for row in rows] for i in range(3))
    assert same(x + y + z, ScoreHistogram.from_scores(p, targets, groups))


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_every_histogram_survives_the_network(rows: Rows) -> None:
    h = histogram(rows)
    arrays = {
        name: np.frombuffer(array.tobytes(), np.int64).reshape(array.shape) for name, array in h.to_arrays().items()
    }
    assert same(ScoreHistogram.from_arrays(arrays), h)


def test_contents() -> None:
    h = ScoreHistogram.from_scores([0.0, 0.5, 0.5, 1.0], [0, 0, 1, 1], ["x", "x", "y", "y"])
    assert np.flatnonzero(h.negatives).tolist() == [0, BINS // 2]
    assert np.flatnonzero(h.positives).tolist() == [BINS // 2, BINS - 1]
    assert h.calibration_counts[[0, 7, 14]].tolist() == [1, 2, 1]
    assert h.squared_error[0] * UNIT == 0.5
    assert (h.images, int(h.groups[0])) == (4, 2)
    assert h.effective_sizes == (1.0, 1.0)
    assert ScoreHistogram.from_scores([0.1] * 3, [0] * 3, [1, 2, (3,)]).effective_sizes == (3.0, 0.0)


def test_arrays_cannot_be_changed_afterwards() -> None:
    arrays = {name: array.copy() for name, array in histogram([(0.3, 1, 0)]).to_arrays().items()}
    h = ScoreHistogram.from_arrays(arrays)
    arrays["positives"][:] = 9
    assert h.positives.sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        h.positives[0] = 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-9, 1.0000001])
def test_probability_outside_the_unit_interval_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="position 1"):
        ScoreHistogram.from_scores([0.5, bad], [0, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("p", "y", "g"),
    [
        ([0.5], [2], ["a"]),
        ([0.5], [0.5], ["a"]),
        ([0.5], [np.nan], ["a"]),
        ([0.5], [0, 1], ["a"]),
        ([0.5], [1], []),
        ([[0.5]], [[1]], ["a"]),
    ],
)
def test_other_bad_scores_are_refused(p: npt.ArrayLike, y: npt.ArrayLike, g: list[str]) -> None:
    with pytest.raises(DataError):
        ScoreHistogram.from_scores(p, y, g)


def tampered(name: str, at: int, by: int) -> dict[str, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3 == 0
    h = ScoreHistogram.from_scores(rng.random(60), y, (np.arange(60) // 4).tolist())
    arrays = {key: array.copy() for key, array in h.to_arrays().items()}
    arrays[name][at] += by
    return arrays


@pytest.mark.parametrize(
    ("name", "at", "by", "reason"),
    [
        ("positives", 0, -1, "negative entry"),
        ("positives", 0, 1, "count different images"),
        ("negatives", 3, 2**62, "beyond"),
        ("calibration_counts", 2, 1, "count different images"),
        ("calibration_positives", 2, 1, "count different images"),
        ("calibration_sums", 2, 2**36, "sum of probabilities"),
        ("squared_error", 0, 30 * 2**36, "squared errors"),
        ("squared_error", 0, -(2**34), "squared errors"),
        ("groups", 0, -14, "sum of squares"),
        ("groups", 0, -15, "groups cannot hold"),
        ("groups", 0, 60, "groups cannot hold"),
        ("group_squares", 1, -30, "sum of squares"),
        ("group_squares", 0, 2**40, "sum of squares"),
    ],
)
def test_tampered_arrays_are_refused(name: str, at: int, by: int, reason: str) -> None:
    ScoreHistogram.from_arrays(tampered(name, at, 0))
    with pytest.raises(DataError, match=reason):
        ScoreHistogram.from_arrays(tampered(name, at, by))


def test_scores_moved_between_bins_are_refused() -> None:
    arrays = tampered("positives", 0, 0)
    occupied = np.flatnonzero(arrays["positives"])
    arrays["positives"][occupied[-1]] -= 1
    arrays["positives"][occupied[0]] += 1
    with pytest.raises(DataError, match="different scores"):
        ScoreHistogram.from_arrays(arrays)
    arrays = tampered("positives", 0, 0)
    bin_ = int(np.argmax(arrays["calibration_counts"]))
    arrays["calibration_positives"][bin_] += arrays["calibration_counts"][bin_]
    with pytest.raises(DataError, match="count different images"):
        ScoreHistogram.from_arrays(arrays)


def test_more_melanomas_than_images_in_a_calibration_bin_are_refused() -> None:
    arrays = {name: array.copy() for name, array in histogram([(0.01, 1, 0), (0.99, 1, 1)]).to_arrays().items()}
    arrays["calibration_positives"][[0, 14]] = [2, 0]
    with pytest.raises(DataError, match="more melanomas than images"):
        ScoreHistogram.from_arrays(arrays)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(BINS),
        np.full(BINS, np.nan),
        np.zeros(BINS - 1, np.int64),
        np.zeros((BINS, 1), np.int64),
        np.zeros(BINS, np.int32),
        [0] * BINS,
    ],
)
def test_wrong_type_or_shape_is_refused(wrong: object) -> None:
    with pytest.raises(DataError, match="int64 array of shape"):
        ScoreHistogram.from_arrays({**ScoreHistogram.empty().to_arrays(), "positives": wrong})  # type: ignore[dict-item]


def test_missing_and_unknown_arrays_are_refused() -> None:
    arrays = ScoreHistogram.empty().to_arrays()
    with pytest.raises(DataError, match="scores"):
        ScoreHistogram.from_arrays({**arrays, "scores": np.zeros(1, np.int64)})
    del arrays["groups"]
    with pytest.raises(DataError, match="groups"):
        ScoreHistogram.from_arrays(arrays)


def test_too_many_images_in_all_are_refused() -> None:
    half = MAX_IMAGES // 2 + 1
    arrays = {name: array.copy() for name, array in ScoreHistogram.empty().to_arrays().items()}
    arrays["negatives"][0] = arrays["calibration_counts"][0] = arrays["groups"][0] = arrays["group_squares"][0] = half
    h = ScoreHistogram.from_arrays(arrays)
    with pytest.raises(DataError, match="beyond"):
        h + h
