"""The whole doctor: nothing raises, nothing hangs, and the table and the JSON hold what was found."""

import json
import shutil
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import melfed.client.doctor.network
from melfed.client.config.clinic import ClinicConfig, read_clinic
from melfed.client.data.clinic_data import population_fingerprint
from melfed.client.data.loading import population
from melfed.client.doctor.examination import examine, examine_briefly
from melfed.client.ledger.key import ledger_key
from melfed.client.ledger.ledger import Ledger
from melfed.client.privacy.accounting import Mechanism
from melfed.common.doctor.steps import Check, exit_code, to_json
from melfed.common.terminal.doctor_table import lines
from tests.client.doctors import black_hole, closed_port, door, edit, make_kit
from tests.client.ledger.ledgers import charge, spend

FILES = ("ca.crt", "clinic.crt", "clinic.key", "node.key", "clinic.yaml")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(melfed.client.doctor.network, "PROBE_SECONDS", 0.1)  # Flower has a test of its own


def test_a_clinic_that_is_well(tmp_path: Path, phantom: Path) -> None:
    seen: list[Check] = []
    with door(tmp_path / "server") as (port, _):
        checks = examine(make_kit(tmp_path / "kit", phantom, port=port), seen.append)
    assert seen == checks
    assert len({check.name for check in checks}) == len(checks)
    assert [check.name for check in checks if check.status == "failed"] == ["key"]
    assert all(check.mend for check in checks if check.status in ("failed", "warning"))
    assert not any(check.mend for check in checks if check.status in ("ok", "skipped"))


def briefly(config: ClinicConfig, **options: float) -> dict[str, str]:
    """The names of the checks that did not go well, and what they are."""
    return {check.name: check.status for check in examine_briefly(config, **options) if check.status != "ok"}


def test_in_brief_a_clinic_that_is_well_has_nothing(tmp_path: Path, phantom: Path) -> None:
    with door(tmp_path / "server") as (port, _):
        assert briefly(make_kit(tmp_path / "kit", phantom, port=port)) == {}


def test_in_brief_what_keeps_a_running_clinic_from_taking_part_is_found(
    tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    with door(tmp_path / "revoking", status=403) as (port, _):
        assert briefly(make_kit(tmp_path / "a", data, port=port)) == {"door": "failed"}
    config = make_kit(tmp_path / "b", data, port=closed_port())
    with Ledger.open(config.ledger, population_fingerprint(population(config), ledger_key(config.ledger))) as ledger:
        spend(ledger, charge(1, Mechanism(1.0, 2.0, 1)))
    away = {"outbound port": "failed", "TLS": "skipped", "door": "skipped"}
    assert briefly(config) == away
    table = next(data.glob("*.csv"))
    whole = table.read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert briefly(config) == {"table": "warning", "data": "failed", **away}
    table.write_text(whole)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert briefly(config) == {"disk": "failed", **away}
    monkeypatch.undo()
    data.rename(tmp_path / "elsewhere")
    assert briefly(config) == {"data folder": "failed", "table": "skipped", "data": "skipped", **away}


def test_a_black_hole_does_not_hold_it_up(tmp_path: Path, phantom: Path) -> None:
    with black_hole() as port:
        started = time.monotonic()
        checks = {check.name: check for check in examine(make_kit(tmp_path / "kit", phantom, port=port), seconds=0.5)}
        assert time.monotonic() - started < 20
    assert checks["TLS"].status == "failed"
    assert checks["key"].status == "skipped"
    assert checks["table"].status == "ok"


def test_nothing_is_written(tmp_path: Path, phantom: Path) -> None:
    config = make_kit(tmp_path / "kit", phantom, port=closed_port())

    def content() -> dict[str, tuple[int, int]]:
        paths = [*config.folder.rglob("*"), *phantom.rglob("*")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}

    before = content()
    examine(config)
    assert content() == before


def test_an_empty_folder(tmp_path: Path) -> None:
    config = make_kit(tmp_path / "kit", tmp_path / "none", port=closed_port())
    for path in config.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    checks = examine(config)
    assert exit_code(checks) == 1
    assert {"clinic.yaml", "secrets", "certificate", "data folder"} <= {c.name for c in checks if c.status == "failed"}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_broken_kit_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("broken")
    config = make_kit(folder / "kit", folder / "data", port=1)
    (folder / "data").mkdir()
    (folder / "data" / "table.csv").write_bytes(data.draw(st.binary(max_size=60) | st.just(b"image,target\na.jpg,1\n")))
    (folder / "data" / "a.jpg").write_bytes(data.draw(st.binary(max_size=20)))
    for name in FILES:
        what = data.draw(st.sampled_from(["leave", "cut", "noise", "folder", "gone", "link"]))
        path = config.folder / name
        if what == "leave":
            continue
        content = path.read_bytes()
        path.unlink()
        if what == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif what == "noise":
            path.write_bytes(data.draw(st.binary(max_size=80)))
        elif what == "folder":
            path.mkdir()
        elif what == "link":
            path.symlink_to(path)
    for path in (config.ledger, config.audit_log):
        path.write_bytes(data.draw(st.binary(max_size=80)))
    changed = {section: None for section in ("name", "coordinator", "data") if data.draw(st.booleans())}
    checks = examine(ClinicConfig(config.path, config.file.model_copy(update=changed)))
    assert exit_code(checks) == 1
    assert all(check.detail and "\n" not in check.detail for check in checks)
    assert not any("this doctor" in check.detail for check in checks)
    shutil.rmtree(folder)


def test_a_fault_of_a_check_is_a_row(tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melfed.client.doctor.machine.threads", lambda _: 1 / 0)
    checks = {check.name: check for check in examine(make_kit(tmp_path / "kit", phantom, port=closed_port()))}
    assert checks["threads"].detail == "cannot be examined: ZeroDivisionError"


def test_the_lines_and_the_json() -> None:
    checks = [
        Check("first", "ok", "3 of [bold]3[/bold]"),
        Check("second", "failed", "no", "chmod 600 [x]"),
        Check("third", "warning", "hm", "do"),
        Check("fourth", "skipped", "needs: second"),
    ]
    text = "\n".join(map(str, lines(checks)))
    for words in ("✓", "✗", "!", "–", "[bold]3[/bold]", "chmod 600 [x]"):
        assert words in text
    assert json.loads(to_json(checks))[1] == {
        "name": "second",
        "status": "failed",
        "detail": "no",
        "mend": "chmod 600 [x]",
    }


def test_the_key_in_the_kit_stays_private(tmp_path: Path, phantom: Path) -> None:
    config = edit(make_kit(tmp_path / "kit", phantom, port=closed_port()), "epsilon: 3", "epsilon: 2")
    examine(read_clinic(config.path))
    assert stat.S_IMODE(config.node_key.stat().st_mode) == 0o600
    key = config.certificate_key.read_text().splitlines()[1]
    assert key not in to_json(examine(config))
