"""The coordinator's doctor, in good and bad state."""

import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.doctor.kit import GIB
from melfed.common.doctor.steps import Check, exit_code
from melfed.server import doctor
from melfed.server.clinics.certificates import make_authority, make_server_certificate
from melfed.server.clinics.registry import approve, revoke
from melfed.server.config import ServerConfig, read_server
from melfed.server.runs.state import RunState, write_state
from tests.client.doctors import AUTHORITY, record_of, server_kit, write_private

needs_nginx = pytest.mark.skipif(
    not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()), reason="nginx is not installed"
)
FILES = ("ca.crt", "server.crt", "server.key", "superexec.secret", "melfed.fab", "server.yaml", "clinics/north.json")


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    kit = server_kit(tmp_path / "kit")
    approve(kit.clinics, record_of("north"))
    return kit


def examined(config: ServerConfig) -> dict[str, Check]:
    return {check.name: check for check in doctor.examine_server(config)}


def edit(config: ServerConfig, before: str, after: str) -> ServerConfig:
    text = config.path.read_text()
    assert before in text
    config.path.write_text(text.replace(before, after))
    return read_server(config.path)


@needs_nginx
def test_all_is_well(config: ServerConfig) -> None:
    def content() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in config.folder.rglob("*")}

    before, seen = content(), []
    checks = doctor.examine_server(config, seen.append)
    assert seen == checks
    assert content() == before, "the doctor changes nothing"
    statuses = {check.name: check.status for check in checks}
    assert "failed" not in statuses.values(), checks
    assert {name for name, status in statuses.items() if status == "warning"} <= {"weights", "clock"}
    assert {name for name, status in statuses.items() if status == "skipped"} <= {"database", "audit log", "clock"}


def test_a_configuration_that_others_can_write(config: ServerConfig) -> None:
    config.path.chmod(0o666)
    assert doctor.configuration(config).status == "failed"


@pytest.mark.parametrize("name", ["server.key", "superexec.secret"])
def test_a_secret_that_others_can_read(config: ServerConfig, name: str) -> None:
    (config.folder / name).chmod(0o644)
    found = examined(config)["secrets"]
    assert found.status == "failed"
    assert f"chmod 600 {config.folder / name}" in found.mend


def test_certificates(config: ServerConfig) -> None:
    assert doctor.server_certificate(config).status == "ok"
    for days, status in ((-1, "failed"), (10, "warning")):
        pair = make_server_certificate(AUTHORITY, "consortium", ["coordinator.example"], days)
        config.certificate.write_bytes(pair.certificate)
        write_private(config.certificate_key, pair.key)
        assert doctor.server_certificate(config).status == status
    local = make_server_certificate(AUTHORITY, "consortium", ["localhost"], 300)
    config.certificate.write_bytes(local.certificate)
    write_private(config.certificate_key, local.key)
    assert "this machine alone" in doctor.server_certificate(config).detail
    foreign = make_server_certificate(make_authority("other"), "other", ["coordinator.example"], 300)
    config.certificate.write_bytes(foreign.certificate)
    write_private(config.certificate_key, foreign.key)
    assert "not from the authority" in doctor.server_certificate(config).detail


def test_clinics(config: ServerConfig) -> None:
    assert doctor.clinics(config).detail == "1 let in, 0 revoked"
    ending = record_of("south").model_copy(update={"not_after": "2001-01-01T00:00:00+00:00"})
    approve(config.clinics, ending)
    found = doctor.clinics(config)
    assert found.status == "warning"
    assert "south" in found.detail
    revoke(config.clinics, "south")
    assert doctor.clinics(config).status == "ok"
    revoke(config.clinics, "north")
    assert "approve" in doctor.clinics(config).mend
    (config.clinics / "north.json").write_text("{}")
    assert doctor.clinics(config).status == "failed"


def test_the_bundle(config: ServerConfig) -> None:
    assert doctor.bundle(config).status == "ok"
    config.bundle.write_bytes(config.bundle.read_bytes() + b" ")
    assert doctor.bundle(config).status == "failed"
    config.bundle.unlink()
    assert "missing" in doctor.bundle(config).detail


@needs_nginx
def test_nginx_refuses_what_it_cannot_use(config: ServerConfig) -> None:
    assert doctor.nginx(config).status == "ok"
    wrong = edit(config, "address: 127.0.0.1", "address: 'no such address'")
    found = doctor.nginx(wrong)
    assert found.status == "failed"
    assert "server.yaml" in found.mend


def test_nginx_is_not_installed(config: ServerConfig) -> None:
    found = doctor.nginx(edit(config, "edge: {", "edge: {nginx: no-such-nginx, "))
    assert found.status == "failed"
    assert "apt-get install" in found.mend


def test_ports(config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", config.file.superlink_port)):
        found = doctor.server_ports(config)
    assert found.status == "failed"
    assert f"superlink_port {config.file.superlink_port}" in found.detail
    assert doctor.server_ports(config).status == "ok"
    monkeypatch.setattr(doctor, "_may_open", lambda _: False)
    assert doctor.server_ports(config).status == "warning"


@pytest.mark.parametrize(("free", "status"), [(0, "failed"), (3, "warning"), (50, "ok")])
def test_disk(config: ServerConfig, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIB if "runs" in str(path) else 99 * GIB)
    )
    found = doctor.disk(config)
    assert found.status == status
    if status != "ok":
        assert str(config.runs) in found.detail


def test_runs(config: ServerConfig) -> None:
    assert doctor.runs(config).detail == "none yet"
    for number, status in enumerate(("running", "completed", "completed")):
        (config.runs / str(number)).mkdir()
        write_state(config.runs / str(number), RunState(status=status))
    assert doctor.runs(config).detail == "2 completed, 1 running"
    (config.runs / "0" / "state.json").write_text("{")
    assert doctor.runs(config).status == "failed"


def test_weights(config: ServerConfig) -> None:
    assert doctor.weights(config).status == "warning"
    config.weights.mkdir()
    (config.weights / "squeezenet1_1.pth").touch()
    assert doctor.weights(config).status == "ok"


def make_database(path: Path, rows: int = 3000) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("create table t (a text)")
        connection.executemany("insert into t values (?)", ((f"{number:0200}",) for number in range(rows)))
        connection.execute("create index i on t (a)")
    connection.close()


def test_the_database(config: ServerConfig) -> None:
    assert doctor.database(config).status == "skipped"
    path = config.state / "flower.db"
    make_database(path)
    assert doctor.database(config).detail == "1 whole"
    content = bytearray(path.read_bytes())
    content[8192:40_960] = b"\xff" * (40_960 - 8192)
    path.write_bytes(content)
    found = doctor.database(config)
    assert found.status == "failed"
    assert "flower.db is damaged" in found.detail


def test_a_database_in_use_and_a_large_one(config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config.state / "flower.db"
    make_database(path)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("begin immediate")
    writer.execute("insert into t values ('x')")
    assert doctor.database(config).status == "ok", "readers do not wait for a writer"
    writer.execute("rollback")
    writer.close()
    monkeypatch.setattr(doctor, "_OPCODES", 10)
    found = doctor.database(config, seconds=-1)
    assert found.status == "skipped"
    assert "too large" in found.detail


def test_the_audit_log(config: ServerConfig) -> None:
    log = AuditLog(config.audit_log)
    for seconds in (1.0, 2.0):
        log.record(Event.CONNECTED, seconds=seconds)
    assert "2 records" in doctor.audit_log(config).detail
    config.audit_log.write_text(config.audit_log.read_text().replace("1.0", "9.0"))
    assert doctor.audit_log(config).status == "failed"


@pytest.mark.parametrize(("state", "status"), [(0, "ok"), (5, "warning"), (-1, "skipped")])
def test_the_clock(monkeypatch: pytest.MonkeyPatch, state: int, status: str) -> None:
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda _: SimpleNamespace(adjtimex=lambda _: state))
    assert doctor.clock().status == status


def test_a_system_without_adjtimex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert doctor.clock().status == "skipped"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_broken_kit_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    config = server_kit(tmp_path_factory.mktemp("broken"))
    approve(config.clinics, record_of("north"))
    broken = data.draw(st.sets(st.sampled_from(FILES), min_size=1))
    for name in broken:
        path, content = config.folder / name, (config.folder / name).read_bytes()
        path.unlink()
        change: Callable[[], object] = data.draw(
            st.sampled_from(
                [
                    lambda path=path: None,
                    lambda path=path: path.mkdir(),
                    lambda path=path: path.symlink_to(path),
                    lambda path=path: path.write_bytes(b"\xff\x00"),
                    lambda path=path, content=content: path.write_bytes(content[: len(content) // 2]),
                ]
            )
        )
        change()
    (config.state / "flower.db").write_bytes(b"SQLite format 3\0" + data.draw(st.binary(max_size=200)))
    config.audit_log.write_bytes(data.draw(st.binary(max_size=60)))
    checks = doctor.examine_server(config)
    assert exit_code(checks) == 1
    assert all(check.detail and "\n" not in check.detail for check in checks)
    shutil.rmtree(config.folder)
