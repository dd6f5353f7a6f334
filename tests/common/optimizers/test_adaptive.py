"""The adaptive step of Reddi et al. (arXiv 2003.00295), algorithm 2."""

import numpy as np
import pytest

from melfed.common.optimizers.adaptive import LEARNING_RATE, adaptive
from tests.common.optimizers.steps import CHANGES, OPTIONS, models


def test_the_first_second_moment_is_made_of_tau_squared_and_the_change_squared() -> None:
    seen = []

    def second(before: np.ndarray, square: np.ndarray, beta2: np.float32) -> np.ndarray:
        seen.append((before.tolist(), square.tolist(), float(beta2)))
        return square

    (first,) = models(adaptive(second), CHANGES[:1])
    ((before, square, beta2),) = seen
    assert before == pytest.approx([OPTIONS.server_tau**2] * 2)
    assert square == [1.0, 4.0]
    assert beta2 == pytest.approx(OPTIONS.server_beta2)
    # x + η m / (√v + τ), m = (1 - β₁) Δ
    assert first == pytest.approx([0.3 * 0.2 * 1.0 / (1.0 + 0.01), 0.3 * 0.2 * -2.0 / (2.0 + 0.01)], rel=1e-5)


def test_the_momentum_decays_by_beta1() -> None:
    after = models(adaptive(lambda before, square, beta2: np.ones_like(square)), CHANGES[:2])
    moved = np.array(after[1]) - after[0]
    assert moved == pytest.approx(0.3 * (0.8 * 0.2 * CHANGES[0] + 0.2 * CHANGES[1]) / 1.01, rel=1e-5)


def test_an_adaptive_optimiser_keeps_two_moments_and_has_a_small_rate() -> None:
    optimizer = adaptive(lambda before, square, beta2: before)
    assert (optimizer.moments, optimizer.learning_rate) == (("momentum", "second"), LEARNING_RATE)
