"""A folder is served to a browser, and what is missing is told in one line."""

import shutil
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from melfed.common.errors import RunError
from melfed.simulations.benchmarks.browser import chromium, served
from tests.browser import started


def test_a_folder_is_served_with_the_types_that_browsers_ask_for(tmp_path: Path) -> None:
    for name in ("a.mjs", "a.wasm", "index.html"):
        (tmp_path / name).write_text("x")
    with served(tmp_path) as address:
        types = {name: urlopen(f"{address}/{name}").headers["content-type"] for name in ("a.mjs", "a.wasm", "")}
    assert types == {"a.mjs": "text/javascript", "a.wasm": "application/wasm", "": "text/html"}
    with pytest.raises(URLError):
        urlopen(address)


def test_a_browser_opens_it(tmp_path: Path) -> None:
    with started():
        pass  # skips where there is no browser
    (tmp_path / "index.html").write_text("<title>here</title>")
    with served(tmp_path) as address, chromium("--user-agent=melfed") as browser:
        browser.get(f"{address}/index.html")
        assert browser.title == "here"
        assert browser.execute_script("return navigator.userAgent") == "melfed"


def test_without_a_browser_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RunError, match="no chromium"), chromium():
        pass
