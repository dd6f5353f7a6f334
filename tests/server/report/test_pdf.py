"""The report as pages to print."""

import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from melfed.common.errors import ServiceError, StorageError
from melfed.server.report import pdf
from melfed.server.report.page import write_report
from tests.browser import started
from tests.server.fake_run import FakeRun


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_report(FakeRun(clinics=("<b>north</b>", "b", "c", "d")).write(tmp_path / "run ä #1"))


def without_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf.shutil, "which", lambda _: None)


def test_a_browser_prints_it(report: Path) -> None:
    with started():
        pass  # skips where there is none
    path = pdf.write_pdf(report)
    assert path == report.with_name("report.pdf")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 3


def test_without_a_browser_weasyprint_prints_it_in_colours(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []

    class HTML:
        def __init__(self, string: str) -> None:
            pages.append(string)

        def write_pdf(self) -> bytes:
            return b"%PDF-made"

    without_browser(monkeypatch)
    monkeypatch.setitem(sys.modules, "weasyprint", SimpleNamespace(HTML=HTML))
    assert pdf.write_pdf(report).read_bytes() == b"%PDF-made"
    body = pages[0].partition("</style>")[2]
    assert "var(--" not in body
    assert "#0067a8" in body
    assert "var(--ink)" in pages[0].partition("</style>")[0]


def test_where_nothing_prints_one_line_says_what_to_install(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_browser(monkeypatch)
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(ServiceError, match=r"apt-get install chromium, or pip install 'melfed\[pdf\]'"):
        pdf.write_pdf(report)


def test_a_browser_that_fails_or_hangs_leaves_the_last_one(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report.with_name("report.pdf")
    before.write_bytes(b"%PDF-before")
    failing = report.with_name("failing")
    failing.write_text("#!/bin/sh\necho starting >&2\necho no display >&2\nexit 3\n")
    failing.chmod(0o700)
    monkeypatch.setattr(pdf.shutil, "which", lambda _: str(failing))
    with pytest.raises(ServiceError, match="printed nothing: no display"):
        pdf.write_pdf(report)

    def hang(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(pdf.subprocess, "run", hang)
    with pytest.raises(ServiceError, match=r"did not print .* within 180 s"):
        pdf.write_pdf(report)
    assert before.read_bytes() == b"%PDF-before"
    with pytest.raises(StorageError, match="no such report"):
        pdf.write_pdf(report.with_name("nothing.html"))
