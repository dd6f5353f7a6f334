"""Rounds of an optimiser in the tests of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from melfed.common.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Options:
    """What a study states."""

    server_rate: float = 0.3
    server_momentum: float = 0.8
    server_beta2: float = 0.95
    server_tau: float = 0.01


OPTIONS = Options()
CHANGES = (np.array([1.0, -2.0], np.float32), np.array([0.5, 3.0], np.float32), np.array([-4.0, 0.0], np.float32))


def models(optimizer: Optimizer, changes: Sequence[np.ndarray] = CHANGES) -> list[list[float]]:
    """The model after each round, from zeros, where the clinics' mean is the model plus a change."""
    model, known = np.zeros(2, np.float32), dict.fromkeys(optimizer.moments)
    after = []
    for change in changes:
        assert optimizer.step is not None
        model, kept = optimizer.step(model, change, known, OPTIONS)
        assert set(kept) == set(optimizer.moments)
        assert all(tensor.dtype == np.float32 and tensor.shape == model.shape for tensor in (model, *kept.values()))
        known = dict(kept)
        after.append(model.tolist())
    return after
