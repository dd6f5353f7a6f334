"""Fixtures of simulations."""

import numpy as np
import pytest

from melfed.client.training.feature_cache import _Source


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images a frozen prefix has been run on, each time that it was."""
    found: list[int] = []
    compute = _Source.compute

    def counting(self: _Source, numbers: np.ndarray) -> np.ndarray:
        found.append(len(numbers))
        return compute(self, numbers)

    monkeypatch.setattr(_Source, "compute", counting)
    return found
