"""What the report says of subgroups: a table an attribute, nothing of those who are too few, the largest gaps."""

from pathlib import Path

from melfed.common.metrics.intervals import Interval
from melfed.common.metrics.subgroups import Gap, SubgroupMetrics
from melfed.server.report.page import write_report
from melfed.server.report.subgroups import TOO_FEW, lines, reading, tables
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import AttributeSummary, RunSummary, SubgroupsSummary
from tests.server.fake_run import NOISED, FakeRun
from tests.server.report.test_page import rows, words

KNOWN = SubgroupMetrics(
    units=1200,
    melanomas=150,
    auroc=Interval(value=0.8123, low=0.7512, high=0.8634),
    sensitivity=Interval(value=0.7, low=0.62, high=0.77),
    calibration=Interval(value=-0.021, low=-0.05, high=0.008),
)
GAP = Gap(measure="auroc", lowest="male", highest="<b>", gap=Interval(value=0.1, low=0.0, high=0.21))
FOUND = SubgroupsSummary(
    threshold=0.314,
    specificity=0.9,
    attributes=(
        AttributeSummary(
            attribute="sex",
            cells={"male": KNOWN, "<b>": KNOWN, "unknown": SubgroupMetrics(units=3, melanomas=0, too_few=True)},
            gaps=(GAP,),
        ),
        AttributeSummary(attribute="source", cells={"north": KNOWN}, gaps=()),
    ),
)


def summary_of(path: Path, found: SubgroupsSummary | None, **of: object) -> RunSummary:
    folder = FakeRun(**of).write(path)
    summary = folder.summary().model_copy(update={"subgroups": found})
    folder.write_summary(summary)
    folder.write_sums()
    return summary


def test_the_page_has_a_table_an_attribute(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", FOUND)
    page = write_report(RunFolder.open(tmp_path / "run")).read_text(encoding="utf-8")
    found = rows(page, "subgroups")
    assert found[0] == ["Subgroup", "Images", "Melanomas", "AUROC", "Sensitivity", "Calibration in the large"]
    assert found[1] == ["male", "1,200", "150", "0.8120.751–0.863", "0.7000.620–0.770", "-0.021-0.050–+0.008"]
    assert found[3] == ["unknown", "3", "0", TOO_FEW]
    text = words(page)
    assert "By sex; below a value its 95 % interval" in text
    assert "By source (clinic)" in text
    assert "Largest gap of AUROC: 0.100 (95 % interval 0.000 to 0.210), from male to <b>." in text
    assert "<b>" not in page, "markup of a clinic is escaped"
    assert "a score of 0.314 or more, which has 90 % specificity on the validation part" in text
    assert len(tables(summary)) == 2


def test_a_run_that_asked_for_none_has_no_such_section(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", None)
    page = write_report(RunFolder.open(tmp_path / "run")).read_text(encoding="utf-8")
    assert 'id="subgroups"' not in page
    assert "#subgroups" not in page
    assert tables(summary) == reading(summary) == lines(summary) == []


def test_the_terminal_has_a_line_an_attribute(tmp_path: Path) -> None:
    ends = "male 0.812 (95 % interval 0.751 to 0.863), highest <b> 0.812 (95 % interval 0.751 to 0.863)"
    assert lines(summary_of(tmp_path / "run", FOUND)) == [
        f"by sex: lowest AUROC {ends}; largest gap 0.100 (95 % interval 0.000 to 0.210); too few: unknown",
        "by source (clinic): fewer than two subgroups have enough melanomas and others to be compared",
    ]


def test_a_private_run_says_that_its_numbers_are_noised(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", FOUND, privacy=NOISED)
    assert tables(summary)[0].columns[:3] == ("Subgroup", "Patients", "With melanoma")
    assert tables(summary)[0].rows[0][1] == ("≈ 1,200", "≈ 150")
    said = " ".join(reading(summary))
    assert "Each patient is in one subgroup" in said
    assert "no more than the noise can make of nobody" in said


def test_without_a_threshold_by_specificity_the_page_says_so(tmp_path: Path) -> None:
    found = FOUND.model_copy(update={"threshold": 0.5, "specificity": None})
    said = " ".join(reading(summary_of(tmp_path / "run", found)))
    assert "at a score of 0.5 or more, since the validation part leaves" in said


def test_a_threshold_of_an_operating_point_is_called_by_its_name(tmp_path: Path) -> None:
    found = FOUND.model_copy(update={"threshold": 0.2, "specificity": None, "point": "sensitivity 0.95"})
    said = " ".join(reading(summary_of(tmp_path / "run", found)))
    assert "at a score of 0.2 or more: the study's operating point, sensitivity 0.95." in said
