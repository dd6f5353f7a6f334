"""FedYogi: v moves towards the squared changes by steps of their own size (v = v - (1 - β₂) Δ² sign(v - Δ²))."""

import numpy as np
import pytest

from melfed.common.optimizers.fedyogi import OPTIMIZER
from tests.common.optimizers.steps import CHANGES, OPTIONS, models

RATE, BETA1, BETA2, TAU = OPTIONS.server_rate, OPTIONS.server_momentum, OPTIONS.server_beta2, OPTIONS.server_tau


def test_steps_are_those_of_the_papers_loop() -> None:
    model, momentum, second = np.zeros(2), np.zeros(2), np.full(2, TAU**2)
    expected = []
    for change in CHANGES:
        momentum = BETA1 * momentum + (1 - BETA1) * change
        second = second - (1 - BETA2) * change**2 * np.sign(second - change**2)
        model = model + RATE * momentum / (np.sqrt(second) + TAU)
        expected.append(model)
    np.testing.assert_allclose(models(OPTIMIZER), expected, rtol=1e-5)


def test_one_step_by_hand() -> None:
    # v = 0.0001 + 0.05 · 1, m = 0.2
    assert models(OPTIMIZER, CHANGES[:1])[0][0] == pytest.approx(0.3 * 0.2 / (0.0501**0.5 + 0.01), rel=1e-5)
