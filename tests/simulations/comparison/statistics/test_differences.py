"""DeLong's test against two oracles, and what equal models, ties, patients and seeds do to differences."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from melfed.simulations.comparison.statistics.differences import (
    Components,
    Resampling,
    Scores,
    delong,
    holm,
    normal_difference,
    replicated,
    resampled,
    seed_interval,
)


def scores(seed: int, n: int = 60, *, ties: bool = False, patients: int | None = None, shift: float = 0.0) -> Scores:
    """Scores of one test part; all seeds have the same truth and patients."""
    truth = np.random.default_rng(0)
    targets = truth.random(n) < 0.4
    owner = truth.integers(0, patients, n) if patients else np.arange(n)
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=n) + (1.0 + shift) * targets
    logits = np.round(logits, 0) if ties else logits
    return Scores(tuple(f"{i:04d}" for i in range(n)), tuple(f"p{k}" for k in owner), targets, logits)


def compare(first: list[Scores], second: list[Scores]):
    everyone = sorted({p for run in (*first, *second) for p in run.patients})
    positive = {p for run in first for p, t in zip(run.patients, run.targets, strict=True) if t}
    negative = {p for run in first for p, t in zip(run.patients, run.targets, strict=True) if not t}
    counts = len(positive), len(negative), len(positive | negative)
    return delong(Components(first, everyone), Components(second, everyone), *counts)


def by_definition(first: Scores, second: Scores) -> tuple[float, float]:
    """The difference and its variance after DeLong, DeLong & Clarke-Pearson (1988), pair by pair as it is defined."""
    y = first.targets
    kernels = []
    for run in (first, second):
        x, z = run.logits[y], run.logits[~y]
        kernels.append(np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in z] for a in x]))
    v10, v01 = [k.mean(axis=1) for k in kernels], [k.mean(axis=0) for k in kernels]
    s10, s01 = np.cov(np.array(v10)), np.cov(np.array(v01))
    s = s10 / y.sum() + s01 / (~y).sum()
    return float(kernels[0].mean() - kernels[1].mean()), float(s[0, 0] + s[1, 1] - 2 * s[0, 1])


def by_leaving_out(first: Scores, second: Scores) -> float:
    """The variance by the jackknife of scikit-learn's AUROC: pseudo-values of each class are DeLong's components."""
    y = first.targets
    variance = 0.0
    for of_class in (y, ~y):
        left_out = [
            roc_auc_score(y[keep], first.logits[keep]) - roc_auc_score(y[keep], second.logits[keep])
            for i in np.flatnonzero(of_class)
            for keep in [np.arange(len(y)) != i]
        ]
        n = of_class.sum()
        variance += (n - 1) ** 2 / n * np.var(left_out, ddof=1)
    return float(variance)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [1, 3])
def test_delong_is_that_of_two_other_ways(seed: int, ties: bool) -> None:
    first, second = scores(seed, ties=ties), scores(seed + 1, ties=ties, shift=0.7)
    found = compare([first], [second])
    value, variance = by_definition(first, second)
    assert found.value == pytest.approx(value, abs=1e-12)
    error = (found.high - found.low) / 2 / stats.norm.ppf(0.975)
    assert error**2 == pytest.approx(variance, rel=1e-9)
    assert error**2 == pytest.approx(by_leaving_out(first, second), rel=1e-9)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(value) / math.sqrt(variance)), rel=1e-9)


def test_equal_models_have_p_1_whatever_their_scale() -> None:
    first = scores(1)
    stretched = Scores(first.images, first.patients, first.targets, 5 * first.logits + 2)
    for second in (first, stretched):
        found = compare([first], [second])
        assert (found.value, found.p) == (0.0, 1.0)
    resampling = Resampling.of(60, 1, replicates=50)
    same = replicated(first, sorted(first.patients), resampling)[:, 1]
    assert resampled(np.zeros(1), (same - same)[None], resampling.uniform).p == 1.0


def test_two_images_of_one_patient_count_for_less_than_two_patients() -> None:
    first, second = scores(1), scores(2)

    def twice(run: Scores, own: bool) -> Scores:
        again = tuple(f"{p}x" for p in run.patients) if own else run.patients
        images = tuple(f"{i}x" for i in run.images)
        return Scores(
            (*run.images, *images),
            (*run.patients, *again),
            np.concatenate((run.targets, run.targets)),
            np.concatenate((run.logits, run.logits)),
        )

    one = compare([first], [second])
    copies = compare([twice(first, own=False)], [twice(second, own=False)])
    others = compare([twice(first, own=True)], [twice(second, own=True)])
    assert copies.value == pytest.approx(one.value)
    assert copies.high - copies.low == pytest.approx(one.high - one.low, rel=1e-6)
    assert others.high - others.low == pytest.approx((one.high - one.low) / math.sqrt(2), rel=0.03)


def test_a_normal_pair_of_patients_has_the_spread_that_simulations_show() -> None:
    gaps, errors = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        targets = np.repeat(rng.random(60) < 0.4, 2)
        patient = rng.normal(size=60).repeat(2)
        runs = [
            Scores(
                tuple(map(str, range(120))),
                tuple(str(i // 2) for i in range(120)),
                targets,
                patient + rng.normal(size=120) + targets * shift,
            )
            for shift in (1.0, 1.0)
        ]
        found = compare([runs[0]], [runs[1]])
        gaps.append(found.value)
        errors.append((found.high - found.low) / 3.92)
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.12)


def test_seeds_that_disagree_widen_the_interval() -> None:
    first = [scores(seed) for seed in (1, 2, 3)]
    second = [scores(seed, shift=shift) for seed, shift in ((4, 0.0), (5, 1.0), (6, 2.0))]
    found = compare(first, second)
    gaps = [a.auroc - b.auroc for a, b in zip(first, second, strict=True)]
    assert found.value == pytest.approx(np.mean(gaps))
    assert (found.high - found.low) / 3.92 > np.std(gaps, ddof=1) / math.sqrt(3)


def test_replicates_are_metrics_of_the_images_that_were_drawn() -> None:
    run = scores(1, patients=25)
    patients = sorted(set(run.patients))
    resampling = Resampling.of(len(patients), 1, replicates=5)
    found = replicated(run, patients, resampling)
    for weights, (auroc, auprc) in zip(resampling.weights, found, strict=True):
        times = np.array([int(weights[patients.index(p)]) for p in run.patients])
        y, x = run.targets.repeat(times), run.logits.repeat(times)
        assert auroc == pytest.approx(roc_auc_score(y, x), abs=1e-12)
        assert auprc == pytest.approx(average_precision_score(y, x), abs=1e-12)


def test_a_bootstrap_knows_patients_and_seeds() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.random((4000, 2))
    still = np.array([[0.1], [0.3]]).repeat(4000, axis=1)
    found = resampled(np.array([0.1, 0.3]), still, uniform)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.1, 0.3))  # which of the two runs were drawn
    one = resampled(np.array([0.1]), 0.1 + rng.normal(0, 0.05, (1, 4000)), uniform)
    assert one.p == pytest.approx(2 * stats.norm.sf(2.0), abs=0.01)


def test_a_certain_difference_has_p_0() -> None:
    assert normal_difference(0.1, 0.0, "").p == 0.0
    assert normal_difference(0.0, 0.0, "").p == 1.0


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.02, 0.01, 0.9]) == pytest.approx([0.04, 0.03, 0.9])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_closed_test_of_bonferroni_does(p: list[float]) -> None:
    """Holm's procedure is the closure of Bonferroni's: a hypothesis' p is the largest of all sets that it is in."""
    adjusted = holm(p)
    for i, mine in enumerate(adjusted):
        sets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n) if i in s]
        assert mine == pytest.approx(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.7, 0.8, 0.75, 0.72]
    mean, half = seed_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(seed_interval([0.5])[1])


def test_within_sources_each_source_has_its_own_components() -> None:
    first, second = scores(1, n=300), scores(2, n=300)
    sources = np.array(["A", "B", "C"])[np.arange(300) % 7 % 3]
    found = delong(
        *(Components([run], run.patients, [list(sources)]) for run in (first, second)),
        int(first.targets.sum()),
        int((~first.targets).sum()),
        300,
    )
    value, of_positives, of_negatives, shares = 0.0, 0.0, 0.0, []
    for name in "ABC":
        a, b = (run.only(np.flatnonzero(sources == name)) for run in (first, second))
        y = a.targets
        kernels = [np.array([[float(p > n) for n in run.logits[~y]] for p in run.logits[y]]) for run in (a, b)]
        gap, share = kernels[0] - kernels[1], y.sum() * (~y).sum()
        shares.append(share)
        value += share * gap.mean()
        of_positives += share**2 * gap.mean(axis=1).var() / y.sum()
        of_negatives += share**2 * gap.mean(axis=0).var() / (~y).sum()
    m, n = first.targets.sum(), (~first.targets).sum()
    variance = (m / (m - 1) * of_positives + n / (n - 1) * of_negatives) / sum(shares) ** 2
    assert found.value == pytest.approx(value / sum(shares))
    assert (found.high - found.low) / 2 == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(variance))


def test_one_source_is_pooled_and_a_source_of_one_class_counts_for_nothing() -> None:
    run = scores(3)
    pooled, within = (Components([run], run.patients, sources) for sources in (None, [["A"] * 60]))
    assert np.array_equal(pooled.positive, within.positive)
    assert pooled.values == pytest.approx(run.auroc)
    melanomas = np.flatnonzero(run.targets)
    sources = ["B" if k in melanomas[:3] else "A" for k in range(60)]
    apart = Components([run], run.patients, [sources])
    assert apart.values == pytest.approx(run.only(np.setdiff1d(np.arange(60), melanomas[:3])).auroc)
    assert not apart.positive[0, melanomas[:3]].any()
