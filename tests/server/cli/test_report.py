"""A report that is written anew."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.report import pdf
from tests.server.cli.commands import call
from tests.server.fake_run import FakeRun


def test_a_finished_run_is_reported_again_and_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FakeRun().write(tmp_path / "run")
    told = call("report", str(folder.path))
    assert told == f"report: {folder.report}\n"
    first = folder.report.read_bytes()
    monkeypatch.setattr(pdf, "_printer", lambda: lambda report: report.read_bytes()[:0] + b"%PDF-")
    assert call("report", str(folder.path), "--pdf").splitlines()[1] == f"pdf: {folder.path / 'report.pdf'}"
    assert (folder.report.read_bytes(), (folder.path / "report.pdf").read_bytes()) == (first, b"%PDF-")
    assert "report.html" in (folder.path / "SHA256SUMS").read_text()


def test_a_run_that_is_under_way_has_none(tmp_path: Path) -> None:
    folder = FakeRun().write(tmp_path / "run")
    (folder.path / "summary.json").unlink()
    with pytest.raises(RunError, match="has not finished"):
        call("report", str(folder.path))
