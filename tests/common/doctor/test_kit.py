"""What both doctors ask of a kit: versions, secrets, space, expiry."""

import shutil
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.doctor.kit import (
    EXPIRY_DAYS,
    GIB,
    disk_space,
    expiry,
    private_folders,
    same_versions,
    secrets,
    versions,
    versions_header,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.floats(-5000, 5000))
def test_expiry_is_told_ahead(days: float) -> None:
    found = expiry("it", NOW + timedelta(days=days), "renew", NOW)
    # A time has microseconds.
    if abs(days) > 1e-6 and abs(days - EXPIRY_DAYS) > 1e-6:
        assert found.status == ("failed" if days < 0 else "warning" if days < EXPIRY_DAYS else "ok")
    assert bool(found.mend) == (found.status != "ok")


def test_versions_of_this_installation() -> None:
    found = versions()
    assert found.status == "ok", found
    assert "flwr 1.41" in found.detail


def test_another_flower_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.42.0" if name == "flwr" else real(name))
    found = versions()
    assert found.status == "failed"
    assert "flwr is 1.42.0, but melfed is made for 1.41.0" in found.detail


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "opacus":
            raise metadata.PackageNotFoundError(name)
        return "1.41.0"

    monkeypatch.setattr(metadata, "version", version)
    assert "opacus is not installed" in versions().detail


@given(st.text(max_size=40))
def test_no_header_upsets_the_comparison(header: str) -> None:
    assert same_versions(header).status in ("ok", "warning")


def test_versions_of_both_sides() -> None:
    assert same_versions(versions_header()).status == "ok"
    assert same_versions(None).status == "ok"
    found = same_versions("melfed/99.0.0 flwr/1.41.0")
    assert found.status == "warning"
    assert "melfed is 99.0.0 there" in found.detail
    assert same_versions("flwr/1.42.0").status == "warning"


def test_secrets(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    assert secrets(paths, "get it").mend == "get it"
    for path in paths:
        path.touch(mode=0o600)
    assert secrets(paths, "get it").status == "ok"
    paths[1].chmod(0o400)
    assert secrets(paths, "get it").status == "ok"
    paths[1].chmod(0o440)
    found = secrets(paths, "get it")
    assert found.status == "failed"
    assert found.mend == f"chmod 600 {paths[1]}"


def test_private_folders_need_not_exist_yet(tmp_path: Path) -> None:
    found = private_folders([tmp_path / "none"])
    assert (found.status, found.detail) == ("ok", "not there yet; made at the first start")
    (tmp_path / "open").mkdir(mode=0o750)
    assert private_folders([tmp_path / "open"]).status == "failed"


def test_space_of_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=3 * GIB))
    assert disk_space(tmp_path / "a" / "b", GIB).status == "ok"
    assert asked == [tmp_path]
    assert disk_space(tmp_path, 4 * GIB).status == "warning"
    found = disk_space(tmp_path, 10 * GIB)
    assert found.status == "failed"
    assert "free 7.0 GiB" in found.mend
