"""Net benefit against its definition, and its intervals against the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common.metrics.histogram import ScoreHistogram, sigmoid
from melfed.common.metrics.net_benefit import THRESHOLDS, decision_curve
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.metrics.score_edges import edges_around

SKILL, PREVALENCE = 1.5, 0.2


def drawn(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of normal distributions, and targets, with scores that are about calibrated."""
    targets = (rng.random(images) < PREVALENCE).astype(int)
    return rng.normal(-2.2 + SKILL * targets, 1.0), targets


def truth(thresholds: np.ndarray) -> np.ndarray:
    logits = np.log(thresholds / (1 - thresholds))
    hits, alarms = norm.sf(logits + 2.2 - SKILL), norm.sf(logits + 2.2)
    return PREVALENCE * hits - (1 - PREVALENCE) * alarms * thresholds / (1 - thresholds)


def noised(rng: np.random.Generator, images: int, sigma: float) -> NoisyHistogram:
    logits, targets = drawn(rng, images)
    part = (logits, targets, [str(number) for number in range(images)])
    return noised_histograms({"test": part}, sigma, NoiseSource(rng.bytes), edges_around(0.0, 1.0))["test"]


@given(st.lists(st.tuples(st.floats(-6, 6), st.booleans()), min_size=1, max_size=60))
def test_it_is_the_definition_over_all_images(scored: list[tuple[float, bool]]) -> None:
    logits, targets = np.array([x for x, _ in scored]), np.array([y for _, y in scored])
    curve = decision_curve(ScoreHistogram.from_scores(logits, targets.astype(int), range(len(scored))))
    if targets.all() or not targets.any():
        assert curve.threshold.size == 0
        return
    probabilities = sigmoid(logits)
    for place, p in enumerate(THRESHOLDS):
        if np.isclose(probabilities, p, atol=1e-12).any():
            continue
        called = probabilities >= p
        expected = ((called & targets).sum() - (called & ~targets).sum() * p / (1 - p)) / len(scored)
        assert curve.model[place] == pytest.approx(expected, abs=1e-12)
        of_all = (targets.sum() - (~targets).sum() * p / (1 - p)) / len(scored)
        assert curve.everything[place] == pytest.approx(of_all, abs=1e-12)
    assert (curve.low <= curve.model).all()
    assert (curve.model <= curve.high).all()


def test_images_of_one_patient_widen_the_interval() -> None:
    logits, targets = drawn(np.random.default_rng(0), 400)
    each, few = (
        decision_curve(ScoreHistogram.from_scores(logits, targets, groups))
        for groups in (range(400), [n // 8 for n in range(400)])
    )
    np.testing.assert_array_equal(each.model, few.model)
    assert (few.high - few.low > 1.3 * (each.high - each.low)).all()


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    thresholds = np.array([0.05, 0.1, 0.2, 0.4])
    covered = []
    for _ in range(400):
        logits, targets = drawn(rng, 500)
        curve = decision_curve(ScoreHistogram.from_scores(logits, targets, range(500)), thresholds)
        covered.append((curve.low <= truth(thresholds)) & (truth(thresholds) <= curve.high))
    assert ((np.mean(covered, axis=0) > 0.9) & (np.mean(covered, axis=0) < 0.99)).all()


def test_with_noise_intervals_are_wider_and_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    thresholds = np.array([0.1, 0.2, 0.4])
    covered, widths = [], []
    for _ in range(25):
        curve = decision_curve(noised(rng, 2000, 4.0), thresholds)
        np.testing.assert_array_equal(curve.threshold, thresholds)
        covered.append((curve.low <= truth(thresholds)) & (truth(thresholds) <= curve.high))
        widths.append(curve.high - curve.low)
    assert np.mean(covered) >= 0.9
    logits, targets = drawn(rng, 2000)
    exact = decision_curve(ScoreHistogram.from_scores(logits, targets, range(2000)), thresholds)
    assert (np.mean(widths, axis=0) > exact.high - exact.low).all()


def test_where_noise_hides_a_class_there_is_no_curve() -> None:
    assert decision_curve(noised(np.random.default_rng(3), 30, 30.0)).threshold.size == 0
    assert decision_curve(ScoreHistogram.empty()).threshold.size == 0


def test_thresholds_beyond_the_outermost_bins_are_left_out() -> None:
    logits, targets = drawn(np.random.default_rng(4), 2000)
    part = (logits, targets, [str(number) for number in range(2000)])
    edges = edges_around(-5.0, 0.05)
    h = noised_histograms({"test": part}, 1.0, NoiseSource(np.random.default_rng(4).bytes), edges)["test"]
    curve = decision_curve(h)
    assert 0 < curve.threshold.size < THRESHOLDS.size
    assert curve.threshold[-1] <= sigmoid(edges[-1])
