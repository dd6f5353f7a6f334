"""Normal scores of both classes, and histograms of them, for tests of what is measured on both kinds."""

import numpy as np

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.metrics.score_edges import edges_around

DISTANCE = 1.8


def scores(melanomas: int, others: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Return calibrated logits and targets: melanomas' scores lie 1.8 standard deviations above the others'."""
    rng = np.random.default_rng(seed)
    y = np.repeat([1.0, 0.0], [melanomas, others])
    z = rng.normal(size=len(y)) + DISTANCE * y
    return DISTANCE * z - DISTANCE**2 / 2 + np.log(melanomas / others), y


def exact(logits: FloatArray, targets: FloatArray) -> ScoreHistogram:
    """Return an exact histogram, each image of a patient of its own."""
    return ScoreHistogram.from_scores(logits, targets, [str(i) for i in range(len(logits))])


def noised(logits: FloatArray, targets: FloatArray, sigma: float, seed: int = 0) -> NoisyHistogram:
    """Return a noised one, of a model whose head fits these scores; with known noise."""
    noise = NoiseSource(np.random.default_rng(seed).bytes)
    part = (logits, targets, [str(i) for i in range(len(logits))])
    return noised_histograms({"test": part}, sigma, noise, edges_around(float(np.median(logits)), 1.0))["test"]
