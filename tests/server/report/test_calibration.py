"""The report's section on calibration: figures before and after the map, points with their promise, and refusals."""

from pathlib import Path

import pytest

from melfed.common.metrics.noisy_histogram import pooled
from melfed.common.study.evaluation_keys import PointSpec
from melfed.common.study.protocol import PrivacySpec
from melfed.server.report.calibration import facts, figure, points
from melfed.server.report.charts import settings
from melfed.server.report.page import scores_by_clinic, write_report
from tests.server.fake_run import NOISED, FakeRun

POINTS = (PointSpec(sensitivity=0.9), PointSpec(specificity=0.8))
ENOUGH = {"images": (4000, 3000), "melanoma_rates": (0.3, 0.2), "clinics": ("a", "b")}


@pytest.mark.parametrize("privacy", [None, NOISED])
def test_a_run_with_enough_shows_both_curves_and_keeps_its_promises(
    tmp_path: Path, privacy: PrivacySpec | None
) -> None:
    folder = FakeRun(points=POINTS, privacy=privacy, **ENOUGH).write(tmp_path / "run")
    summary = folder.summary()
    assert summary.calibration is not None
    with settings():
        drawn = figure(pooled(scores_by_clinic(folder).values()), summary.calibration, "patient" if privacy else None)
    assert drawn.image is not None
    assert [name for _, name in drawn.keys] == ["sigmoid of the logit", "calibrated"]
    told = dict(facts(summary.calibration))
    assert told["Map from logit to probability"].startswith(("Platt's", "monotone"))
    slope = next(text for title, text in told.items() if "slope" in title)
    assert slope.count("95 % interval") == 2
    rows = points(summary)["rows"]
    assert [row[0] for row in rows] == ["sensitivity 0.9", "specificity 0.8"]
    assert all("95 % interval" in cell for row in rows for cell in row[1:])
    page = write_report(folder).read_text()
    assert "Calibration and operating points" in page
    assert drawn.caption in page


def test_what_the_noise_hides_is_said_with_what_would_be_needed(tmp_path: Path) -> None:
    folder = FakeRun(points=POINTS, privacy=NOISED, images=(30, 20, 12, 8)).write(tmp_path / "run")
    summary = folder.summary()
    assert summary.calibration is not None
    drawn = figure(pooled(scores_by_clinic(folder).values()), summary.calibration, "patient")
    assert drawn.image is None
    assert "would be needed in the test part" in drawn.caption
    assert all(row[1].startswith("not promised: the noise hides a class; about") for row in points(summary)["rows"])
    assert all("none" in text or "undefined" in text for _, text in facts(summary.calibration))
    assert "not promised" in write_report(folder).read_text()


def test_a_run_that_says_nothing_of_calibration_has_no_such_section(tmp_path: Path) -> None:
    page = write_report(FakeRun().write(tmp_path / "run")).read_text()
    assert "Calibration and operating points" not in page
