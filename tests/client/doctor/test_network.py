"""The doctor's look at the way to the coordinator, against small servers on loopback."""

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.network import NetworkDoctor
from melfed.common.doctor.steps import Check, examine_steps
from melfed.server.clinics.certificates import (
    key_header,
    make_authority,
    make_clinic_certificate,
    make_server_certificate,
    public_line,
)
from tests.client.doctors import (
    AUTHORITY,
    NODE_KEY,
    Kit,
    black_hole,
    closed_port,
    door,
    make_kit,
    write_private,
)


def probe_answering(tmp_path: Path, answer: object) -> tuple[str, ...]:
    """Stand-in for the process that asks SuperLink."""
    script = tmp_path / "probe.py"
    script.write_text(f"print({json.dumps(answer)!r})\n")
    return (str(script),)


def examined(doctor: NetworkDoctor) -> dict[str, Check]:
    return {check.name: check for check in examine_steps(doctor.steps())}


def statuses(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items()}


def test_all_is_well(kit: Kit, tmp_path: Path) -> None:
    with door(tmp_path / "server") as (port, asked):
        doctor = NetworkDoctor(kit(port), program=probe_answering(tmp_path, {"status": 400, "code": 2003}))
        checks = examined(doctor)
    assert set(statuses(checks).values()) == {"ok"}, checks
    assert [entry["certificate"] for entry in asked] == [False, True]
    assert asked[1]["key"] == key_header(public_line(NODE_KEY)), "the edge compares it with the approved one"
    assert asked[0]["key"] is None, "a stranger's question tells the key to nobody"


@pytest.mark.parametrize(
    ("skew", "status"),
    [(0, "ok"), (20, "ok"), (60, "warning"), (280, "failed"), (-3.5, "warning"), (-8, "failed"), (-400, "failed")],
)
def test_the_clock_is_compared_with_the_coordinators(kit: Kit, tmp_path: Path, skew: float, status: str) -> None:
    with door(tmp_path / "server", skew=skew) as (port, _):
        doctor = NetworkDoctor(kit(port))
        assert doctor.tls().status == "ok"
        found = doctor.clock()
    assert found.status == status
    if status != "ok":
        assert ("behind" if skew > 0 else "ahead of") in found.detail
        assert "timedatectl" in found.mend


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2020 00:00:00 GMT", "\x00"])
def test_a_date_that_is_none_is_skipped(kit: Kit, tmp_path: Path, date: str) -> None:
    with door(tmp_path / "server", date=date) as (port, _):
        doctor = NetworkDoctor(kit(port))
        doctor.tls()
        assert doctor.clock().status == "skipped"


def test_another_authoritys_server_is_not_trusted(kit: Kit, tmp_path: Path) -> None:
    stranger = make_server_certificate(make_authority("consortium"), "consortium", ["x.example"], 300)
    with door(tmp_path / "server", pair=stranger) as (port, asked):
        checks = examined(NetworkDoctor(kit(port)))
    assert checks["TLS"].status == "failed"
    assert "ca.crt" in checks["TLS"].detail
    assert checks["clock"].status == checks["door"].status == checks["key"].status == "skipped"
    assert not asked, "nothing is said to a server that is not trusted"


def test_an_expired_server_certificate(kit: Kit, tmp_path: Path) -> None:
    expired = make_server_certificate(AUTHORITY, "consortium", ["x.example"], -1)
    with door(tmp_path / "server", pair=expired) as (port, _):
        found = NetworkDoctor(kit(port)).tls()
    assert (found.status, "expired" in found.detail) == ("failed", True)


def test_a_server_certificate_that_ends_soon(kit: Kit, tmp_path: Path) -> None:
    ending = make_server_certificate(AUTHORITY, "consortium", ["x.example"], 10)
    with door(tmp_path / "server", pair=ending) as (port, _):
        found = NetworkDoctor(kit(port)).tls()
    assert (found.status, "expires on" in found.detail) == ("warning", True)


def test_a_server_of_another_name(kit: Kit, tmp_path: Path) -> None:
    with door(tmp_path / "server", address="127.0.0.2") as (port, _):
        found = NetworkDoctor(kit(port, host="127.0.0.2")).tls()
    assert found.status == "failed"
    assert "not for 127.0.0.2" in found.detail


def test_a_missing_authority(kit: Kit, tmp_path: Path) -> None:
    with door(tmp_path / "server") as (port, _):
        config = kit(port)
        config.ca_certificate.unlink()
        assert "ca.crt" in NetworkDoctor(config).tls().detail
        config.ca_certificate.write_text("nonsense")
        assert "ca.crt" in NetworkDoctor(config).tls().detail


@pytest.mark.parametrize(
    ("status", "expected", "word"),
    [
        (401, "ok", "open"),
        (400, "failed", "certificate"),
        (403, "failed", "revoked"),
        (404, "failed", "no melfed server"),
        (429, "warning", "too many"),
        (502, "failed", "SuperLink"),
        (504, "failed", "SuperLink"),
    ],
)
def test_what_the_edge_answers(kit: Kit, tmp_path: Path, status: int, expected: str, word: str) -> None:
    with door(tmp_path / "server", status=status) as (port, _):
        found = NetworkDoctor(kit(port)).door()
    assert found.status == expected
    assert word in found.detail
    assert bool(found.mend) == (expected != "ok")


def test_the_edge_tells_its_versions(kit: Kit, tmp_path: Path) -> None:
    melfed, flwr = ((*metadata.version(name).split(".")[:2], "99") for name in ("melfed", "flwr"))
    patched = f"melfed/{'.'.join(melfed)} flwr/{'.'.join(flwr)}"
    for header, status in ((patched, "ok"), ("melfed/7.0.0 flwr/1.41.0", "warning"), ("odd", "ok")):
        with door(tmp_path / "server", headers={"Melfed-Versions": header}) as (port, _):
            kit_ = kit(port) if not (tmp_path / "kit").exists() else None
            doctor = NetworkDoctor(kit_ or _moved(tmp_path, port))
            assert doctor.door().status == status, header


def _moved(tmp_path: Path, port: int) -> ClinicConfig:
    return make_kit(tmp_path / f"kit{port}", tmp_path / "data", port=port)


def test_a_certificate_of_another_authority_is_refused_at_the_door(kit: Kit, tmp_path: Path) -> None:
    with door(tmp_path / "server", verify=ssl.CERT_REQUIRED) as (port, asked):
        config = kit(port)
        other = make_clinic_certificate(make_authority("consortium"), "consortium", "north", 30)
        config.certificate.write_bytes(other.certificate)
        write_private(config.certificate_key, other.key)
        found = NetworkDoctor(config).door()
    assert found.status == "failed"
    assert "approve" in found.mend
    assert not asked


@pytest.mark.parametrize("name", ["clinic.crt", "clinic.key", "node.key"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_keys_that_cannot_be_used(kit: Kit, tmp_path: Path, name: str, content: bytes | None) -> None:
    with door(tmp_path / "server") as (port, asked):
        config = kit(port)
        path = config.folder / name
        path.unlink() if content is None else path.write_bytes(content)
        found = NetworkDoctor(config).door()
    assert found.status == "failed"
    assert "cannot be used" in found.detail
    assert not asked


@pytest.mark.parametrize(
    ("answer", "status", "word"),
    [
        ({"status": 400, "code": 2003}, "ok", "registered"),
        ({"status": 412, "code": 2004}, "failed", "does not know"),
        ({"status": 412, "code": 1001, "detail": "1.40.0"}, "failed", "1.40.0"),
        ({"status": 401, "code": None}, "failed", "signature"),
        ({"status": 200, "code": None}, "failed", "200"),
        ({"status": 502, "code": None}, "warning", "502"),
        ({"error": "ConnectError"}, "failed", "ConnectError"),
        ({}, "failed", "None"),
    ],
)
def test_what_superlink_says_of_the_key(
    kit: Kit, tmp_path: Path, answer: dict[str, object], status: str, word: str
) -> None:
    found = NetworkDoctor(kit(1), program=probe_answering(tmp_path, answer)).key()
    assert found.status == status
    assert word in found.detail


def test_a_probe_that_says_nothing(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "mute.py").write_text("raise SystemExit(3)")
    assert NetworkDoctor(kit(1), program=(str(tmp_path / "mute.py"),)).key().status == "failed"


def test_a_closed_port(kit: Kit) -> None:
    checks = examined(NetworkDoctor(kit(closed_port())))
    assert checks["outbound port"].status == "failed"
    assert "refused" in checks["outbound port"].detail
    assert checks["TLS"].status == checks["key"].status == "skipped"


def test_a_name_that_nobody_knows(kit: Kit) -> None:
    checks = examined(NetworkDoctor(kit(443, host="no-such-host.invalid"), seconds=2))
    assert checks["DNS"].status == "failed"
    assert "no-such-host.invalid" in checks["DNS"].mend
    assert checks["outbound port"].status == "skipped"


@pytest.mark.parametrize("host", ["a..b", "x" * 80, "ä" * 70, "-", "256.256.256.256"])
def test_odd_names(kit: Kit, host: str) -> None:
    assert NetworkDoctor(kit(443, host=f"'{host}'"), seconds=1).dns().status == "failed"


def test_a_black_hole_is_left_soon(kit: Kit) -> None:
    with black_hole() as port:
        started = time.monotonic()
        checks = examined(NetworkDoctor(kit(port), seconds=0.5))
        assert time.monotonic() - started < 5
    assert checks["outbound port"].status == "ok"
    assert checks["TLS"].status == "failed"
    assert "0.5 s" in checks["TLS"].detail
    assert checks["key"].status == "skipped"


def test_what_speaks_no_tls(kit: Kit) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        found = NetworkDoctor(kit(listening.getsockname()[1])).tls()
        thread.join(5)
    assert found.status == "failed"
    assert "no TLS" in found.detail


@pytest.fixture
def tunnel() -> Iterator[tuple[int, list[str]]]:
    """A proxy that tunnels, on a free port, and the first lines of what it was asked."""
    asked: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(10)

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            client.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            asked.append(head.decode())
            host, _, port = head.split()[1].decode().rpartition(":")
            try:
                target = socket.create_connection((host, int(port)), timeout=5)
            except OSError:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                client.close()
                continue
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for pair in ((client, target), (target, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listening.getsockname()[1], asked
    listening.close()


def test_a_proxy_is_used_and_told(
    kit: Kit, tmp_path: Path, tunnel: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, asked = tunnel
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy}")
    with door(tmp_path / "server") as (port, _):
        checks = examined(NetworkDoctor(kit(port), program=probe_answering(tmp_path, {"status": 400, "code": 2003})))
    assert set(statuses(checks).values()) == {"ok"}, checks
    assert f"through 127.0.0.1:{proxy}" in checks["proxy"].detail
    assert len(asked) == 3
    assert base64.b64encode(b"user:p@ss").decode() in asked[0]
    assert not any("p@ss" in check.detail or "p%40ss" in check.detail for check in checks.values())


def test_no_proxy_for_the_coordinator(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with door(tmp_path / "server") as (port, _):
        doctor = NetworkDoctor(kit(port))
        assert "a direct connection" in doctor.proxy().detail
        assert doctor.outbound().status == "ok"


def test_a_proxy_that_is_not_there(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{closed_port()}")
    checks = examined(NetworkDoctor(kit(443, host="coordinator.example")))
    assert checks["DNS"].detail == "left to the proxy"
    assert checks["outbound port"].status == "failed"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://", "http://[::1", "://"])
def test_odd_proxies(kit: Kit, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    checks = examined(NetworkDoctor(kit(closed_port()), seconds=1))
    assert checks["outbound port"].status != "ok"
