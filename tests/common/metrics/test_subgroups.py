"""How well a model does in subgroups: against other implementations, with noise, and where there are too few."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from melfed.common.data.records import LesionRecord
from melfed.common.data.subgroups import ATTRIBUTES
from melfed.common.metrics.histogram import ScoreHistogram, sigmoid
from melfed.common.metrics.intervals import UNDEFINED, Interval
from melfed.common.metrics.noisy import share_called
from melfed.common.metrics.noisy_histogram import SENSITIVITY, noise_variance
from melfed.common.metrics.subgroups import (
    FEWEST,
    MEASURES,
    SubgroupMetrics,
    exact_subgroups,
    largest_gap,
    subgroup_metrics,
    variance_of_subgroups,
)
from tests.common.noisy import SeededNoise, binormal, noised

PLAIN = LesionRecord("a.jpg", 0, "nv", "p", None, None, None, None, None, "here")


def drawn(seed: int, positives: int = 60, negatives: int = 240) -> tuple[np.ndarray, np.ndarray]:
    return binormal(np.random.default_rng(seed), positives, negatives)


def exact(logits: np.ndarray, targets: np.ndarray) -> ScoreHistogram:
    return ScoreHistogram.from_scores(logits, targets, list(range(len(logits))))


def test_exact_figures_are_those_of_the_scores() -> None:
    logits, targets = drawn(1)
    found = subgroup_metrics(exact(logits, targets), 0.2)
    p = sigmoid(logits)
    assert (found.units, found.melanomas, found.too_few) == (300, 60, False)
    assert found.auroc.value == pytest.approx(roc_auc_score(targets, logits))
    hits = int((p[targets == 1] >= 0.2).sum())
    limits = binomtest(hits, 60).proportion_ci(method="wilson")
    assert found.sensitivity.model_dump() == pytest.approx({"value": hits / 60, "low": limits.low, "high": limits.high})
    share = binomtest(60, 300).proportion_ci(method="wilson")
    expected = {"value": p.mean() - 0.2, "low": p.mean() - share.high, "high": p.mean() - share.low}
    assert found.calibration.model_dump() == pytest.approx(expected)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_noised_figures_are_near_the_exact_ones_and_their_intervals_hold_them(sigma: float) -> None:
    logits, targets = drawn(2, 300, 900)
    plain = subgroup_metrics(exact(logits, targets), 0.2)
    for seed in range(5):
        found = subgroup_metrics(noised(logits, targets, sigma, SeededNoise(seed)), 0.2)
        assert abs(found.melanomas - 300) <= 1 + 5 * sigma * 2
        for measure in MEASURES:
            told, true = getattr(found, measure), getattr(plain, measure)
            assert told.low <= true.value <= told.high, measure
            assert told.value == pytest.approx(true.value, abs=0.02 + 0.03 * sigma), measure
            assert told.high - told.low >= 0.8 * (true.high - true.low), f"{measure}: noise makes nothing surer"


@pytest.mark.parametrize("threshold", [1e-9, 0.2, 1 - 1e-9])
def test_any_threshold_has_a_sensitivity(threshold: float) -> None:
    logits, targets = drawn(3)
    # Sums of fractional counts are rounded: of many draws, some are a little beyond 1.
    drawings = [noised(logits, targets, 0.5, SeededNoise(seed)) for seed in range(20)]
    for histogram in (exact(logits, targets), *drawings):
        found = subgroup_metrics(histogram, threshold).sensitivity
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert 0 <= share_called(histogram) <= 1
        if threshold < 1e-6:
            assert found.value > 0.95
        elif threshold > 0.9:
            assert found.value < 0.05


def test_intervals_of_noised_subgroups_cover_what_they_promise() -> None:
    """Of 120 made-up subgroups; at 95 % fewer than 105 would happen once in 5,000 times."""
    random, held = np.random.default_rng(5), dict.fromkeys(MEASURES, 0)
    big = drawn(99, 40_000, 160_000)
    truth = subgroup_metrics(exact(*big), 0.2)
    for seed in range(120):
        positives = int(random.binomial(300, 0.2))
        found = subgroup_metrics(noised(*drawn(1000 + seed, positives, 300 - positives), 2.0, SeededNoise(seed)), 0.2)
        for measure in MEASURES:
            interval = getattr(found, measure)
            held[measure] += found.too_few or interval.low <= getattr(truth, measure).value <= interval.high
    assert all(count >= 105 for count in held.values()), held


@pytest.mark.parametrize(
    ("positives", "negatives", "few"),
    [
        (0, 0, True),
        (0, 50, True),
        (50, 0, True),
        (FEWEST - 1, 50, True),
        (50, FEWEST - 1, True),
        (FEWEST,) * 2 + (False,),
    ],
)
def test_of_too_few_nothing_is_told_but_how_many_they_are(positives: int, negatives: int, few: bool) -> None:
    logits, targets = drawn(4, positives, negatives)
    for histogram in (exact(logits, targets), noised(logits, targets, 0.0)):
        found = subgroup_metrics(histogram, 0.5)
        assert (found.units, found.melanomas, found.too_few) == (positives + negatives, positives, few)
        assert all((getattr(found, measure) == UNDEFINED) == few for measure in MEASURES)


def test_what_is_told_of_a_noised_subgroup_follows_from_its_noised_counts_alone() -> None:
    """Nobody, with noise that looks like many, is told of as many would be: the truth has no say."""
    nobody, many = np.zeros(0), drawn(6, 200, 200)
    hidden = noised(nobody, nobody, 3.0)
    assert subgroup_metrics(hidden, 0.5).too_few
    seen = noised(*many, 3.0)
    forged = dataclasses.replace(hidden, positives=seen.positives, negatives=seen.negatives)
    assert subgroup_metrics(forged, 0.5) == subgroup_metrics(seen, 0.5)
    assert not subgroup_metrics(seen, 0.5).too_few


def test_the_variance_is_that_of_all_attributes_together() -> None:
    assert variance_of_subgroups(3.0, 1) == noise_variance(3.0)
    assert variance_of_subgroups(3.0, 4) == noise_variance(6.0)
    assert SENSITIVITY > 0


def test_exact_cells_of_an_attribute_are_the_whole_part() -> None:
    logits, targets = drawn(7, 20, 40)
    sexes = (["male", "female", None] * 20)[:60]
    records = [
        dataclasses.replace(PLAIN, image=f"{n}.jpg", target=int(y), sex=sex)
        for n, (y, sex) in enumerate(zip(targets, sexes, strict=True))
    ]
    groups = [f"patient {n // 2}" for n in range(60)]
    found = exact_subgroups(records, logits, groups, ("sex", "site"))
    assert list(found) == [f"{name}/{n}" for name in ("sex", "site") for n in range(len(ATTRIBUTES[name].cells))]
    for attribute in ("sex", "site"):
        cells = [h for cell, h in found.items() if cell.startswith(f"{attribute}/")]
        together = sum(cells[1:], cells[0])
        whole = ScoreHistogram.from_scores(logits, targets, groups)
        assert together.to_lists() == whole.to_lists(), "no patient is in two cells, and none is lost"
    assert [h.images for cell, h in found.items() if cell.startswith("site/")] == [0] * 9 + [60]


def test_exact_cells_have_no_more_bins_than_may_be() -> None:
    logits, targets = drawn(8, 100, 100)
    records = [dataclasses.replace(PLAIN, image=f"{n}", target=int(y)) for n, y in enumerate(targets)]
    found = exact_subgroups(records, logits, [str(n) for n in range(200)], ("sex",), 16)
    assert len(found["sex/2"].low) == 16


def interval(value: float, reach: float) -> Interval:
    return Interval(value=value, low=value - reach, high=value + reach)


def test_the_gap_of_two_is_newcombes_and_of_more_is_wider() -> None:
    two = {"a": interval(0.9, 0.03), "b": interval(0.7, 0.04)}
    found = largest_gap("auroc", two)
    assert found is not None
    assert (found.lowest, found.highest) == ("b", "a")
    assert found.gap.model_dump() == pytest.approx({"value": 0.2, "low": 0.15, "high": 0.25})
    more = largest_gap("auroc", {**two, "c": interval(0.8, 0.01), "few": UNDEFINED})
    assert more is not None
    assert (more.lowest, more.highest) == ("b", "a")
    assert more.gap.low < found.gap.low
    assert more.gap.high > found.gap.high


@pytest.mark.parametrize("cells", [{}, {"a": interval(0.8, 0.1)}, {"a": interval(0.8, 0.1), "b": UNDEFINED}])
def test_one_subgroup_has_no_gap(cells: dict[str, Interval]) -> None:
    assert largest_gap("auroc", cells) is None


@given(st.dictionaries(st.text(max_size=3), st.floats(0.0, 1.0), min_size=2, max_size=10), st.floats(0.0, 0.3))
def test_a_gap_is_between_the_ends_and_within_its_interval(values: dict[str, float], reach: float) -> None:
    found = largest_gap("sensitivity", {name: interval(value, reach) for name, value in values.items()})
    assert found is not None
    assert found.gap.value == max(values.values()) - min(values.values())
    assert 0 <= found.gap.low <= found.gap.value <= found.gap.high <= 1


def test_equal_subgroups_have_no_gap_for_sure() -> None:
    """Ten subgroups of one distribution: that their largest gap is not 0 is said in few cases."""
    random, said = np.random.default_rng(9), 0
    for _ in range(60):
        cells = {}
        for cell in range(10):
            positives = int(random.binomial(80, 0.3))
            seed = int(random.integers(2**31))
            cells[str(cell)] = subgroup_metrics(exact(*drawn(seed, positives, 80 - positives)), 0.2).auroc
        found = largest_gap("auroc", cells)
        said += found is not None and found.gap.low > 0
    assert said <= 8, said


def test_measures_are_fields() -> None:
    assert set(MEASURES) <= set(SubgroupMetrics.model_fields)
