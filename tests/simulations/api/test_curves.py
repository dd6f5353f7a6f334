"""The figure of a run: the curves of its pooled test images."""

import numpy as np
import pytest

from melfed.simulations import Run


def test_the_curves_have_the_areas_that_the_metrics_say(run: Run) -> None:
    training, roc, precision = run.curves().axes[:3]
    curve = next(line for line in roc.get_lines() if str(line.get_label()).startswith("AUROC"))
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert np.trapezoid(y, x) == pytest.approx(run.metrics.auroc.value, abs=1e-9)
    assert f"AUROC {run.metrics.auroc.value:.3f}" in str(curve.get_label())
    assert any(str(line.get_label()).startswith("AUPRC") for line in precision.get_lines())
    validated = next(line for line in training.get_lines() if line.get_label() == "AUROC")
    assert list(np.asarray(validated.get_ydata())) == run.rounds["auroc"].to_list()


def test_a_notebook_shows_a_picture(run: Run) -> None:
    assert run.curves()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
