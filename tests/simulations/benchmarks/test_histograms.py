"""What score bins cost: exact where each score has a bin, near with noise, off where bins do not follow the scores."""

import numpy as np
import pytest

from melfed.simulations.benchmarks import histograms
from melfed.simulations.benchmarks.histograms import SCALES, SHIFTS, measure


def test_a_row_a_way_scale_and_shift_and_errors_as_they_should_be() -> None:
    rows = measure(clinics=2, images=400, sigma=0.0, seed=0)
    ways = ["fixed", "4096", "256", "noised, fixed", "noised, model"]
    assert [row["way"] for row in rows] == ways * len(SCALES) * len(SHIFTS)
    for row in rows:
        error = abs((row["auroc"] if row["auroc"] is not None else 0.5) - row["exact"]["auroc"])
        if row["way"] == "4096":
            assert error < 1e-9
        elif row["way"] == "256":
            assert error < 3 / 255
        elif row["way"] == "noised, model":
            assert error < 0.02, "edges of the model follow the scores at every scale and shift"
    far = [row for row in rows if row["way"] == "fixed" and row["scale"] == 1e-4]
    assert all(abs(row["auroc"] - row["exact"]["auroc"]) > 0.1 for row in far), "bins that do not follow see nothing"


def test_the_same_seed_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "SCALES", (1.0,))
    monkeypatch.setattr(histograms, "SHIFTS", (0.0,))
    one, two = (measure(2, 50, 1.5, seed=3) for _ in range(2))
    assert [row["exact"] for row in one] == [row["exact"] for row in two]
    assert not np.isclose(measure(2, 50, 1.5, seed=4)[0]["exact"]["auroc"], one[0]["exact"]["auroc"])
