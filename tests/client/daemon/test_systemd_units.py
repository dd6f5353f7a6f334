"""What installed units set, with what an administrator has added."""

from pathlib import Path

import pytest

from melfed.client.daemon import systemd_units as units


def test_the_last_word_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, shipped = tmp_path / "etc", tmp_path / "lib"
    monkeypatch.setattr(units, "UNIT_FOLDERS", (own, shipped))
    assert units.installed() == set()
    assert units.setting(units.WORKER, "User") is None
    shipped.mkdir()
    (shipped / units.WORKER).write_text("[Service]\n# User=nobody\nUser=shipped\nProtectHome=yes\n")
    assert units.setting(units.WORKER, "User") == "shipped"
    assert units.setting(units.WORKER, "Group") is None
    own.mkdir()
    (own / units.WORKER).write_text("[Service]\nUser = own\nProtectHome=yes\n")
    assert units.setting(units.WORKER, "User") == "own"
    (own / f"{units.WORKER}.d").mkdir()
    (own / f"{units.WORKER}.d" / "override.conf").write_text("[Service]\nProtectHome=read-only\n")
    assert units.setting(units.WORKER, "ProtectHome") == "read-only"
    assert units.installed() == {units.WORKER}
