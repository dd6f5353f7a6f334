"""What the terminal says of a finished run, beside the table: why metrics are undefined."""

from pathlib import Path

from melfed.server.cli.run_table import notes, summary_table, undefined
from melfed.server.report import brought, subgroups
from melfed.server.runs.summary import RunSummary
from tests.server.fake_run import NOISED, PRIVATE, FakeRun
from tests.server.report.test_brought import with_own
from tests.server.report.test_subgroups import FOUND

CLINICS = ("a", "b", "c")


def summary(path: Path, images: tuple[int, ...], rates: tuple[float, ...], **changes: object) -> RunSummary:
    run = FakeRun(clinics=CLINICS[: len(images)], images=images, melanoma_rates=rates, **changes)
    return run.write(path / "run").summary()


def test_where_everything_is_defined_nothing_is_said(tmp_path: Path) -> None:
    assert undefined(summary(tmp_path, (400, 400), (0.3, 0.3))) == []


def test_the_title_says_whose_images_are_synthetic(tmp_path: Path) -> None:
    def title(name: str, *rendered: str) -> str:
        found = summary(tmp_path / name, (400, 400), (0.3, 0.3), deployed=True, rendered=rendered)
        return str(summary_table(found).title)

    assert "(federated)" in title("none")
    assert "(federated, synthetic images of a)" in title("one", "a")
    assert "(federated, synthetic images)" in title("all", "a", "b")


def test_counts_are_not_said_to_be_of_the_test_part(tmp_path: Path) -> None:
    table = summary_table(summary(tmp_path, (400, 400), (0.3, 0.3), privacy=PRIVATE))
    assert "test" not in str(table.title)
    assert table.caption == "Counts: training data. AUROC, AUPRC: test part, with 95 % intervals."
    assert "all data" in str(summary_table(summary(tmp_path / "two", (400, 400), (0.3, 0.3))).caption)


def test_numbers_that_are_not_exact_are_marked_beside_those_that_are(tmp_path: Path) -> None:
    table = summary_table(summary(tmp_path, (400, 400), (0.3, 0.3), privacy=PRIVATE, declared=("b",)))
    noised, declared, pooled = list(table.columns[1].cells)
    assert noised.startswith("≈ ")
    assert declared.isdigit()
    assert pooled.startswith("≈ ")


def test_subgroups_and_gains_are_told_where_the_run_has_them(tmp_path: Path) -> None:
    plain = summary(tmp_path, (400, 400), (0.3, 0.3))
    assert notes(plain) == []
    found = with_own(plain, 0.6, 0.7).model_copy(update={"subgroups": FOUND, "warnings": ("beware",)})
    assert notes(found) == [*subgroups.lines(found), *brought.lines(found), "warning: beware"]
    assert len(notes(found)) == 5


def test_a_reason_is_said_once_with_the_clinics_that_have_it(tmp_path: Path) -> None:
    found = summary(tmp_path, (300, 200, 50), (0.3, 0.0, 0.0))
    assert undefined(found) == ["test of b, c: undefined, because no melanoma in test"]
    assert summary_table(found).row_count == 4


def test_what_is_true_of_all_is_said_of_the_test(tmp_path: Path) -> None:
    found = summary(tmp_path, (30, 30), (0.1, 0.1), privacy=NOISED)
    assert found.test.auroc.value is None
    assert undefined(found) == ["test: undefined, because too few patients in test for the noise"]
