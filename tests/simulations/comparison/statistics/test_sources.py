"""AUROC within sources and of the source alone: by definition, by scikit-learn, and against all orders of sources."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from melfed.simulations.comparison.statistics.differences import Scores, metrics_of
from melfed.simulations.comparison.statistics.sources import FEW, by_source, source_alone

tables = st.lists(st.tuples(st.booleans(), st.sampled_from("ABC"), st.integers(-3, 3)), min_size=2, max_size=30)


def scores(table: list[tuple[bool, str, float]]) -> tuple[Scores, list[str]]:
    """Each image is of a patient of its own."""
    names = tuple(f"{i:03d}" for i in range(len(table)))
    targets, logits = (np.array([row[i] for row in table]) for i in (0, 2))
    return Scores(names, names, targets.astype(bool), logits.astype(float)), [row[1] for row in table]


def drawn(seed: int, images: dict[str, int], rates: dict[str, float], skill: float) -> tuple[Scores, list[str]]:
    rng = np.random.default_rng(seed)
    rows = [(rng.random() < rates[name], name) for name in images for _ in range(images[name])]
    return scores([(target, name, rng.normal() + skill * target + ord(name)) for target, name in rows])


def of_pairs(table: list[tuple[bool, str, float]], *, same: bool) -> float | None:
    """AUROC by its definition, over the pairs of one source, or of two."""
    won = [
        1.0 if p[2] > n[2] else 0.5 if p[2] == n[2] else 0.0
        for p, n in itertools.product(table, table)
        if p[0] and not n[0] and (p[1] == n[1]) == same
    ]
    return sum(won) / len(won) if won else None


@given(tables)
def test_within_sources_is_the_share_of_their_own_pairs(table: list[tuple[bool, str, float]]) -> None:
    found = by_source(*scores(table)).within
    expected = of_pairs(table, same=True)
    assert found.value == (None if expected is None else pytest.approx(expected, abs=1e-12))
    if expected is not None:
        assert 0 <= found.low <= found.value <= found.high <= 1


@given(tables, st.dictionaries(st.sampled_from("ABC"), st.integers(-50, 50)))
def test_what_is_added_to_a_whole_source_changes_nothing_within(
    table: list[tuple[bool, str, float]], offsets: dict[str, int]
) -> None:
    moved = [(target, name, logit + offsets.get(name, 0)) for target, name, logit in table]
    first, second = by_source(*scores(table)).within, by_source(*scores(moved)).within
    assert first.model_dump() == pytest.approx(second.model_dump(), abs=1e-12)


@given(tables)
def test_the_source_alone_is_the_best_score_that_is_constant_within_sources(
    rows: list[tuple[bool, str, float]],
) -> None:
    targets, sources = [row[0] for row in rows], [row[1] for row in rows]
    found = source_alone(targets, sources)
    if len(set(targets)) < 2:
        assert found is None
        return
    names = sorted(set(sources))
    prevalence = {n: np.mean([t for t, s in zip(targets, sources, strict=True) if s == n]) for n in names}
    assert found == pytest.approx(roc_auc_score(targets, [prevalence[s] for s in sources]), abs=1e-12)
    for order in itertools.permutations(names):
        table = [(target, "all", order.index(s)) for target, s in zip(targets, sources, strict=True)]
        assert of_pairs(table, same=True) <= found + 1e-12


def test_pooled_is_a_mean_of_pairs_within_and_across() -> None:
    found, sources = drawn(0, {"A": 60, "B": 50, "C": 9}, {"A": 0.5, "B": 0.1, "C": 0.4}, skill=0.8)
    table = list(zip(found.targets, sources, found.logits, strict=True))
    own = [(sum(t for t, s, _ in table if s == n), sum(not t for t, s, _ in table if s == n)) for n in "ABC"]
    share = sum(m * n for m, n in own) / (found.targets.sum() * (~found.targets).sum())
    within, across = by_source(found, sources).within.value, of_pairs(table, same=False)
    assert within is not None
    assert across is not None
    assert metrics_of(found).auroc.value == pytest.approx(share * within + (1 - share) * across)


def test_a_model_that_knows_the_source_alone_is_found_out() -> None:
    images, rates = {"A": 300, "B": 300}, {"A": 0.5, "B": 0.02}
    found, sources = drawn(1, images, rates, skill=0.0)
    known = Scores(found.images, found.patients, found.targets, np.array([-ord(s) for s in sources], float))
    split = by_source(known, sources)
    assert metrics_of(known).auroc.value == pytest.approx(split.alone)
    assert split.alone is not None
    assert split.alone > 0.75
    assert split.within.value == 0.5


def test_a_source_with_too_few_of_a_class_is_withheld_and_still_counts() -> None:
    rows = [(k < few, name, k % 7 / 7) for name, few in (("A", FEW), ("B", FEW - 1)) for k in range(60)]
    found, sources = scores(rows)
    split = by_source(found, sources)
    first, second = split.sources
    assert (first.name, first.images, first.melanomas, first.fewest, first.withheld) == ("A", 60, FEW, FEW, False)
    assert first.auroc.value == pytest.approx(roc_auc_score([r[0] for r in rows[:60]], [r[2] for r in rows[:60]]))
    assert (second.melanomas, second.withheld, second.auroc.value) == (FEW - 1, True, None)
    assert split.within.value == pytest.approx(of_pairs(rows, same=True))


def test_patients_are_counted_and_not_images() -> None:
    rows = [(k < 3 * FEW, "A", float(k)) for k in range(90)]
    found, sources = scores(rows)
    three_each = Scores(found.images, tuple(f"p{k // 6}" for k in range(90)), found.targets, found.logits)
    assert by_source(found, sources).sources[0].fewest == 3 * FEW
    assert by_source(three_each, sources).sources[0].fewest == FEW // 2


def test_the_interval_within_sources_holds_the_truth() -> None:
    images, rates = {"A": 150, "B": 100, "C": 60}, {"A": 0.3, "B": 0.15, "C": 0.1}
    truth = float(np.mean(np.random.default_rng(0).normal(size=400_000) < 0.9 / np.sqrt(2)))
    held = 0
    for seed in range(150):
        within = by_source(*drawn(seed, images, rates, skill=0.9)).within
        held += within.low <= truth <= within.high
    assert 0.92 <= held / 150 <= 1.0
