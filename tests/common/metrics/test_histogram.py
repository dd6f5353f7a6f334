"""Histograms merge exactly, travel, and refuse what no evaluation set can give."""

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import DataError
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.metrics.histogram import MAX_IMAGES, UNIT, ScoreHistogram, total
from melfed.common.metrics.score_bins import LARGEST, MOST_BINS, known
from tests.common.logits import logit

Rows = list[tuple[float, int, int]]
SCORES = st.floats(-50, 50) | st.sampled_from([0.0, -5e-324, 1e-9, 17.5, np.inf, -np.inf, -1e300, *logit([0.2, 0.6])])
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
    whole = x + y + z
    rows = [(p, target, f"{name}{g}") for name, part in zip("abc", (a, b, c), strict=True) for p, target, g in part]
    p, targets, groups = ([row[i] for row in rows] for i in range(3))
    assert same(whole, ScoreHistogram.from_scores(p, targets, groups))


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_every_histogram_survives_the_network(rows: Rows) -> None:
    h = histogram(rows)
    arrays = {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape) for name, array in h.to_arrays().items()
    }
    assert same(ScoreHistogram.from_arrays(arrays), h)
    assert same(ScoreHistogram.from_lists(json.loads(json.dumps(h.to_lists()))), h)


@settings(deadline=None, max_examples=100)
@given(ROWS, st.integers(2, 12))
def test_fewer_bins_hold_the_same_images(rows: Rows, most: int) -> None:
    x, y, groups = ([row[i] for row in rows] for i in range(3))
    fine, coarse = histogram(rows), ScoreHistogram.from_scores(x, y, groups, most)
    assert len(coarse.low) <= most
    for h in (coarse, fine.condensed(most)):
        assert (int(h.positives.sum()), h.images) == (sum(y), len(rows))
        assert int(h.positives[h.low >= 0].sum()) == sum(
            target for logit, target in zip(x, y, strict=True) if logit >= 0
        )
    logits = known(np.clip(np.array(x, dtype=float), -LARGEST, LARGEST))
    if len(set(logits.tolist())) > most:
        shared = coarse.high > coarse.low
        assert shared.any()
        assert (coarse.low[1:] > coarse.high[:-1]).all(), "a clinic's own bins do not overlap"


def test_contents() -> None:
    h = ScoreHistogram.from_scores([-np.inf, 0.0, 0.0, np.inf], [0, 0, 1, 1], ["x", "x", "y", "y"])
    assert h.low.tolist() == h.high.tolist() == [-LARGEST, 0, LARGEST]
    assert h.negatives.tolist() == [1, 1, 0]
    assert h.positives.tolist() == [0, 1, 1]
    assert h.calibration_counts[[0, 7, 14]].tolist() == [1, 2, 1]
    assert h.squared_error[0] * UNIT == 0.5
    assert (h.images, int(h.groups[0])) == (4, 2)
    assert h.effective_sizes == (1.0, 1.0)
    assert ScoreHistogram.from_scores([0.1] * 3, [0] * 3, [1, 2, (3,)]).effective_sizes == (3.0, 0.0)


def test_logits_that_differ_in_their_last_digits_alone_are_one() -> None:
    x = 17.25 + np.arange(4) * np.spacing(17.25)
    assert len(ScoreHistogram.from_scores(x, [0, 1, 0, 1], list("abcd")).low) == 1
    assert len(ScoreHistogram.from_scores(17.25 + np.arange(4) * 1e-9, [0, 1, 0, 1], list("abcd")).low) == 4


def test_a_clinic_has_no_more_bins_than_are_allowed() -> None:
    x = np.random.default_rng(0).normal(size=3 * MOST_BINS)
    y = x > 1
    h = ScoreHistogram.from_scores(x, y, list(range(len(x))))
    assert MOST_BINS / 2 < len(h.low) <= MOST_BINS
    assert h.positives.max() <= 2 * y.sum() / (MOST_BINS - 1) + 1
    assert h.negatives.max() <= 2 * (~y).sum() / (MOST_BINS - 1) + 1


def test_arrays_cannot_be_changed_afterwards() -> None:
    arrays = {name: array.copy() for name, array in histogram([(0.3, 1, 0)]).to_arrays().items()}
    h = ScoreHistogram.from_arrays(arrays)
    arrays["positives"][:] = 9
    assert h.positives.sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        h.positives[0] = 1


def test_a_logit_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="position 1"):
        ScoreHistogram.from_scores([0.5, np.nan], [0, 1], ["a", "b"])


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
    h = ScoreHistogram.from_scores(logit(rng.random(60)), y, (np.arange(60) // 4).tolist())
    arrays = {key: array.copy() for key, array in h.to_arrays().items()}
    arrays[name][at] += by
    return arrays


@pytest.mark.parametrize(
    ("name", "at", "by", "reason"),
    [
        ("positives", 0, -10, "negative entry"),
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
    first, last = (np.flatnonzero(arrays["positives"])[i] for i in (0, -1))
    other = np.flatnonzero(arrays["negatives"])[0]
    arrays["positives"][[last, other]] += (-1, 1)
    arrays["negatives"][[last, other]] += (1, -1)
    assert first != last
    with pytest.raises(DataError, match="different scores"):
        ScoreHistogram.from_arrays(arrays)
    arrays = tampered("positives", 0, 0)
    bin_ = int(np.argmax(arrays["calibration_counts"]))
    arrays["calibration_positives"][bin_] += arrays["calibration_counts"][bin_]
    with pytest.raises(DataError, match="count different images"):
        ScoreHistogram.from_arrays(arrays)


def test_more_melanomas_than_images_in_a_calibration_bin_are_refused() -> None:
    arrays = {name: array.copy() for name, array in histogram([(-4.5, 1, 0), (4.5, 1, 1)]).to_arrays().items()}
    arrays["calibration_positives"][[0, 14]] = [2, 0]
    with pytest.raises(DataError, match="more melanomas than images"):
        ScoreHistogram.from_arrays(arrays)


@pytest.mark.parametrize("name", ["positives", "calibration_counts", "low"])
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(15, np.float32),
        np.full(15, np.nan),
        np.zeros((15, 1), np.int64),
        np.zeros(15, np.int32),
        [0] * 15,
        np.int64(0),
    ],
)
def test_wrong_type_or_shape_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(DataError, match=r"array of shape|different numbers|nowhere"):
        ScoreHistogram.from_arrays({**histogram([(0.3, 1, 0)]).to_arrays(), name: wrong})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"low": [-1.0, 0.25, np.nan]}, "nowhere"),
        ({"high": [-1.0, 0.25, np.inf]}, "nowhere"),
        ({"low": [-np.inf, 0.25, 2.0]}, "nowhere"),
        ({"high": [-2.0, 0.25, 2.0]}, "before it begins"),
        ({"high": [0.0, 0.25, 2.0]}, "both sides of 0"),
        ({"low": [0.25, -1.0, 2.0], "high": [0.25, -1.0, 2.0]}, "not in order"),
        ({"low": [-1.0, 0.25, 0.25], "high": [-1.0, 0.25, 0.25]}, "not in order"),
        ({"low": [-1.0, 0.25], "high": [-1.0, 0.25]}, "different numbers"),
        ({"low": [-1.0, 0.25, 2.0, 3.0], "high": [-1.0, 0.25, 2.0, 3.0]}, "different numbers"),
        ({"negatives": [0, 0, 1]}, "is empty"),
        ({"low": [-9.0, 0.25, 2.0], "high": [-9.0, 0.25, 2.0]}, "different scores|squared errors"),
    ],
)
def test_bins_that_are_none_are_refused(change: dict[str, list[float]], reason: str) -> None:
    arrays = histogram([(-1.0, 0, 0), (0.25, 1, 1), (2.0, 0, 2)]).to_arrays()
    changed = {name: np.array(values, arrays[name].dtype) for name, values in change.items()}
    with pytest.raises(DataError, match=reason):
        ScoreHistogram.from_arrays({**arrays, **changed})


def test_missing_and_unknown_arrays_are_refused() -> None:
    arrays = ScoreHistogram.empty().to_arrays()
    with pytest.raises(DataError, match="scores"):
        ScoreHistogram.from_arrays({**arrays, "scores": np.zeros(1, np.int64)})
    del arrays["groups"]
    with pytest.raises(DataError, match="groups"):
        ScoreHistogram.from_arrays(arrays)


def test_too_many_images_in_all_are_refused() -> None:
    half = MAX_IMAGES // 2 + 1
    arrays = {name: array.copy() for name, array in histogram([(-9.0, 0, 0)]).to_arrays().items()}
    arrays["calibration_sums"] *= half
    arrays["squared_error"] *= half
    arrays["negatives"][0] = arrays["calibration_counts"][0] = arrays["groups"][0] = arrays["group_squares"][0] = half
    h = ScoreHistogram.from_arrays(arrays)
    with pytest.raises(DataError, match="beyond"):
        h + h


def test_histograms_of_0_1_stay_readable() -> None:
    """Theirs had 1,024 bins that were the same for all; scores lie anywhere in them."""
    rng = np.random.default_rng(3)
    y = rng.random(400) < 0.3
    x = np.append(rng.normal(size=398) * 4 + 2 * y[:398], [-20.0, 20.0])
    groups = np.arange(400) // 2
    edges = np.linspace(-12.0, 12.0, 1023)
    bins = np.searchsorted(edges, x, side="right")
    new = ScoreHistogram.from_scores(x, y, groups.tolist())
    old = {name: values for name, values in new.to_lists().items() if name not in {"low", "high"}}
    old["positives"], old["negatives"] = (np.bincount(bins[one], minlength=1024).tolist() for one in (y, ~y))
    h = ScoreHistogram.from_lists(json.loads(json.dumps(old)))
    was, now = histogram_metrics(h), histogram_metrics(new)
    assert was.balanced_accuracy.value == now.balanced_accuracy.value
    assert was.auroc.value == pytest.approx(now.auroc.value, abs=0.005)
    assert was.auroc.low < now.auroc.low < now.auroc.high < was.auroc.high  # type: ignore[operator]
    assert same(total([h, new]), new + h)
    for name in ("positives", "groups"):
        with pytest.raises(DataError):
            ScoreHistogram.from_lists({**old, name: old[name][:-1]})
