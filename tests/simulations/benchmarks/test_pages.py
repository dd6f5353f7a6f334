"""The benchmark of pages measures a live page and a report of the run that it writes."""

from pathlib import Path

from melfed.simulations.benchmarks.pages import measure
from tests.browser import started


def test_a_short_run_is_painted_and_reported(tmp_path: Path) -> None:
    with started():
        pass  # skips where there is no browser
    found = measure(tmp_path, clinics=6, rounds=12)
    first, second = found["live"]
    assert 0 < first["paint_s"] < first["clinics_s"] <= first["rounds_s"]
    assert second.keys() == first.keys()
    assert 0 < found["report_mb"] < 5
    report = (tmp_path / "runs" / "long" / "report.html").read_text()
    assert all(f"clinic-{number:03}" in report for number in range(6))
