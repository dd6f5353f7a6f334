"""The report's section on calibration: figures before and after the map, points with their promise, and refusals."""

from pathlib import Path

import pytest

from melfed.common.metrics.noisy_histogram import pooled
from melfed.common.study.evaluation_keys import PointSpec
from melfed.common.study.protocol import PrivacySpec
from melfed.server.report.calibration import facts, figure, measures, points, title
from melfed.server.report.charts import settings
from melfed.server.report.figures import CALIBRATION
from melfed.server.report.page import scores_by_clinic, write_report
from tests.server.fake_run import NOISED, FakeRun
from tests.server.report.test_page import rows as table_rows

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
    assert dict(facts(summary))["Map from logit to probability"].startswith(("Platt's", "monotone"))
    told = measures(summary)
    assert told["columns"] == ("Measure", "Best", "Sigmoid of the logit", "Calibrated")
    found = {row[0]: row[2:] for row in told["rows"]}
    for name in ("Brier score", "Calibration slope", "Calibration in the large", "Calibration error"):
        assert all("95 % interval" in text for text in found.pop(name))
    assert found == ({} if privacy else {"Expected calibration error": (f"{summary.test.ece:.3f}", "–")})
    rows = points(summary)["rows"]
    assert [row[0] for row in rows] == ["sensitivity 0.9", "specificity 0.8"]
    assert all("95 % interval" in cell for row in rows for cell in row[1:])
    page = write_report(folder).read_text()
    assert "Calibration and operating points" in page
    assert drawn.caption in page
    assert page.count(f"<h3>{CALIBRATION}</h3>") == 1
    assert [row[0] for row in table_rows(page, "calibration")].count("Brier score") == 1


def test_what_the_noise_hides_is_said_with_what_would_be_needed(tmp_path: Path) -> None:
    folder = FakeRun(points=POINTS, privacy=NOISED, images=(30, 20, 12, 8)).write(tmp_path / "run")
    summary = folder.summary()
    assert summary.calibration is not None
    drawn = figure(pooled(scores_by_clinic(folder).values()), summary.calibration, "patient")
    assert drawn.image is None
    assert "would be needed in the test part" in drawn.caption
    assert all(row[1].startswith("not promised: the noise hides a class; about") for row in points(summary)["rows"])
    assert facts(summary)[0][1].startswith("none: the noise hides a class; about")
    assert all("noise hides it; about" in row[2] for row in measures(summary)["rows"])
    assert "not promised" in write_report(folder).read_text()


@pytest.mark.parametrize("few", [False, True])
def test_without_a_map_the_section_has_all_that_exact_scores_tell(tmp_path: Path, few: bool) -> None:
    small = {"images": (12, 8), "melanoma_rates": (0.5, 0.5), "clinics": ("a", "b")}
    folder = FakeRun(points=POINTS, **small).write(tmp_path / "run") if few else FakeRun().write(tmp_path / "run")
    summary = folder.summary()
    assert (summary.calibration is not None) == few
    assert title(summary) == ("Calibration and operating points" if few else "Calibration")
    assert summary.test.ece is not None
    assert facts(summary)[0][1].startswith("none: ")
    found = {row[0]: row[2:] for row in measures(summary)["rows"]}
    assert found["Expected calibration error"] == (f"{summary.test.ece:.3f}",)
    assert found["Brier score"][0].startswith(f"{summary.test.brier:.3f}")
    page = write_report(folder).read_text()
    section = page.partition('<section id="calibration"')[2].partition("</section>")[0]
    assert f"<h3>{CALIBRATION}</h3>" in section
    assert "bars: images in each bin" in section
    assert page.count(f"<h3>{CALIBRATION}</h3>") == 1


def test_noised_scores_without_a_map_have_no_such_section(tmp_path: Path) -> None:
    folder = FakeRun(privacy=NOISED, images=(2400, 1400, 60, 0)).write(tmp_path / "run")
    assert title(folder.summary()) is None
    assert 'id="calibration"' not in write_report(folder).read_text()
