"""What the terminal says of a finished run, beside the table: why metrics are undefined."""

from pathlib import Path

from melfed.server.cli.run_table import summary_table, undefined
from melfed.server.runs.summary import RunSummary
from tests.server.fake_run import NOISED, FakeRun

CLINICS = ("a", "b", "c")


def summary(path: Path, images: tuple[int, ...], rates: tuple[float, ...], **changes: object) -> RunSummary:
    run = FakeRun(clinics=CLINICS[: len(images)], images=images, melanoma_rates=rates, **changes)
    return run.write(path / "run").summary()


def test_where_everything_is_defined_nothing_is_said(tmp_path: Path) -> None:
    assert undefined(summary(tmp_path, (400, 400), (0.3, 0.3))) == []


def test_a_reason_is_said_once_with_the_clinics_that_have_it(tmp_path: Path) -> None:
    found = summary(tmp_path, (300, 200, 50), (0.3, 0.0, 0.0))
    assert undefined(found) == ["test of b, c: undefined, because no melanoma in test"]
    assert summary_table(found).row_count == 4


def test_what_is_true_of_all_is_said_of_the_test(tmp_path: Path) -> None:
    found = summary(tmp_path, (30, 30), (0.1, 0.1), privacy=NOISED)
    assert found.test.auroc.value is None
    assert undefined(found) == ["test: undefined, because too few patients in test for the noise"]
