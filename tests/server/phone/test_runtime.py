"""ONNX Runtime from npm: the one that is pinned, kept, or one line on why not."""

import stat
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.phone import runtime
from melfed.server.phone.runtime import FILES, runtime_files


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def npm_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{does}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_npm_it_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"npm is not installed here; .*npm pack onnxruntime-web@.*--runtime$"):
        runtime_files()


def test_without_a_network_it_says_what_npm_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that("echo 'npm error code ENOTFOUND' >&2; exit 1", tmp_path / "bin", monkeypatch)
    with pytest.raises(RunError, match=r"cannot get onnxruntime-web .*\(npm error code ENOTFOUND\); .*--runtime$"):
        runtime_files()


def test_an_npm_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that("exec sleep 30", tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(runtime, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(RunError, match=r"npm has not answered within 0\.2 s"):
        runtime_files()


def test_another_package_is_refused_and_not_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that('for last; do :; done; echo altered > "$last/a.tgz"', tmp_path / "bin", monkeypatch)
    with pytest.raises(RunError, match="its SHA-512 is another than the pinned one"):
        runtime_files()
    assert not list(cache.rglob("*.tgz"))


def test_a_file_that_is_none_or_another(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.tgz: cannot be read"):
        runtime_files(tmp_path / "none.tgz")
    (tmp_path / "other.tgz").write_bytes(b"other")
    with pytest.raises(RunError, match=r"other\.tgz: not onnxruntime-web"):
        runtime_files(tmp_path / "other.tgz")


def test_what_a_page_needs_of_it_is_there(runtime: dict[str, bytes]) -> None:
    assert runtime.keys() == {*FILES, "NOTICE.txt"}
    assert runtime["ort-wasm-simd-threaded.wasm"].startswith(b"\0asm")
