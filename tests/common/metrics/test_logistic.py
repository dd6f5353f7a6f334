"""The logistic regression of counts: that of the images, and unbiased under noise."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from melfed.common.metrics.class_counts import class_counts
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.logistic import fit_logistic, line
from tests.common.metrics.normal_scores import exact, noised, scores


def test_it_is_scikit_learns_on_the_raw_scores() -> None:
    x, y = scores(80, 400)
    x = 0.4 * x + 1
    counts = class_counts(exact(x, y))
    assert counts is not None
    fit = fit_logistic(counts, line(counts.places))
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(x[:, None], y)
    assert fit is not None
    assert fit.coefficients == pytest.approx([oracle.intercept_[0], oracle.coef_[0, 0]], rel=1e-4)
    p = oracle.predict_proba(x[:, None])[:, 1]
    design = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))
    assert fit.covariance == pytest.approx(inverse, rel=1e-3)


def test_separated_classes_have_no_fit_but_with_platts_targets() -> None:
    h = ScoreHistogram.from_scores([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1], list("abcd"))
    counts = class_counts(h)
    assert counts is not None
    assert fit_logistic(counts, line(counts.places)) is None
    smoothed = fit_logistic(counts, line(counts.places), smoothed=True)
    assert smoothed is not None
    # Platt's targets as weights: each image counts (n + 1) / (n + 2) for its class, and the rest for the other.
    x, t = np.tile([-2.0, -1.0, 1.0, 2.0], 2)[:, None], np.repeat([1, 0], 4)
    weights = np.array([0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.25, 0.25])
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(x, t, sample_weight=weights)
    assert smoothed.coefficients[1] == pytest.approx(oracle.coef_[0, 0], rel=1e-4)


def test_under_noise_the_slope_is_unbiased_and_as_uncertain_as_it_says() -> None:
    slopes, said = [], []
    for seed in range(40):
        counts = class_counts(noised(*scores(400, 2000, seed), 4.0, seed))
        assert counts is not None
        fit = fit_logistic(counts, line(counts.places))
        assert fit is not None
        slopes.append(float(fit.coefficients[1]))
        said.append(float(fit.covariance[1, 1]) ** 0.5)
        assert fit.noise[1, 1] > 0
    assert abs(np.mean(slopes) - 1) < 3 * np.std(slopes) / 40**0.5
    assert np.mean(said) == pytest.approx(np.std(slopes), rel=0.35)
