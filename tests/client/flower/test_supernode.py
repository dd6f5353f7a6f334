"""The SuperNode's adaptations: each by itself, and a clinic of real processes at a real SuperLink."""

import contextlib
import hashlib
import importlib
import json
import os
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from melfed.client.flower import supernode
from melfed.client.flower.compatibility import prepare
from melfed.common.errors import ServiceError
from tests.client.superlink import Stack, answers, bundle, free_port, stack, until, write_kit


@pytest.fixture
def kit(tmp_path: Path) -> Any:
    return write_kit(tmp_path, [], free_port())


def test_environment_and_secret(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"FLWR_LOG_LEVEL": "DEBUG", "HOME": "/nowhere"})
    secret = prepare(kit)
    first = secret.read_bytes()
    assert len(first) == 64
    assert prepare(kit).read_bytes() == first
    assert secret.stat().st_mode & 0o777 == 0o600
    assert kit.messenger_state.stat().st_mode & 0o777 == 0o700
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert Path(os.environ["FLWR_HOME"]).is_relative_to(kit.messenger_state)
    assert "FLWR_LOG_LEVEL" not in os.environ
    assert not [path for path in kit.messenger_state.iterdir() if path != secret]


def test_no_secret_is_an_argument(kit: Any) -> None:
    line = " ".join(supernode.arguments(kit, prepare(kit)))
    assert prepare(kit).read_text() not in line
    assert "--isolation=process" in line
    assert "--host=127.0.0.1" in line
    assert "insecure" not in line


@contextlib.contextmanager
def tls_server(kit: Any, *, trusts: str = "ca.crt") -> Iterator[int]:
    """A server that answers those who show a certificate of the CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit.folder / "server.crt", kit.folder / "server.key")
    context.load_verify_locations(kit.folder / trusts)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as line:
            line.recv(10_000)
            line.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(10)


def test_the_certificate_is_shown(kit: Any) -> None:
    with tls_server(kit) as port, httpx.Client(verify=supernode.tls_context(kit)) as client:
        assert client.get(f"https://127.0.0.1:{port}").status_code == 204


def test_a_server_of_another_ca_is_not_spoken_to(kit: Any, tmp_path: Path) -> None:
    other = write_kit(tmp_path / "other", [], 1)
    refused = pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED")
    with tls_server(kit) as port, httpx.Client(verify=supernode.tls_context(other)) as client, refused:
        client.get(f"https://127.0.0.1:{port}")


@pytest.mark.parametrize("name", ["ca.crt", "clinic.crt", "clinic.key"])
def test_a_spoilt_kit_is_named(kit: Any, name: str) -> None:
    (kit.folder / name).write_text("nonsense")
    with pytest.raises(ServiceError, match=r"put the kit's own files back") as caught:
        supernode.tls_context(kit)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="changes users: needs root")
@pytest.mark.parametrize("name", ["clinic.key", "node.key"])
def test_a_key_of_another_user_is_to_be_given_and_not_replaced(kit: Any, name: str) -> None:
    """As after `cp` by root; below /opt, since a folder of pytest's lets no other user in."""
    with tempfile.TemporaryDirectory(dir="/opt") as folder:
        kit = write_kit(Path(folder), [], free_port())
        for path in (kit.folder, *kit.folder.iterdir()):
            if path.name != name:
                os.chown(path, 65534, 65534)
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                supernode.main(kit)
            except ServiceError as error:
                said = str(error)
                os._exit(0 if name in said and "(chown)" in said and "the kit's own" not in said else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_parts_are_put_in_place(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["start_client_internal", "fleet_http_connection"]
    flower, connection = (importlib.import_module(f"flwr.supernode.{name}") for name in names)
    others = [
        importlib.import_module(f"flwr.supercore.{name}") for name in ("heartbeat", "corestate.in_memory_corestate")
    ]
    for module in (flower, connection, *others):
        for name, value in list(vars(module).items()):
            monkeypatch.setattr(module, name, value)  # put back in the end
    supernode.adapt(kit, supernode.tls_context(kit))
    assert flower._push_messages.__self__.__class__.__name__ == "Carrier"
    assert connection.HEARTBEAT_DEFAULT_INTERVAL == 10
    client = connection.FleetHttpClient.from_server_address("127.0.0.1:1", False, None, interceptors=[])
    assert type(client).__name__ == "ClinicFleetClient"
    assert client is flower._push_messages.__self__.client


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A real SuperLink with one clinic, which approves one bundle."""
    with stack(tmp_path_factory.mktemp("stack"), [hashlib.sha256(bundle()).hexdigest()]) as made:
        yield made


def ask(clinic: Stack, name: str, app: bytes | None = None, **settings: float) -> list[dict[str, Any]]:
    """Run the small app, and return what it got."""
    out = clinic.folder / f"{name}.jsonl"
    clinic.run(app or bundle(), out, **settings)
    until(lambda: len(answers(out)) == settings.get("asks", 1), 30)
    return answers(out)


def test_messages_go_there_and_back(clinic: Stack) -> None:
    found = ask(clinic, "there", asks=3, floats=1000)
    assert [answer["error"] for answer in found] == [None] * 3
    assert {answer["clinic"] for answer in found} == {"clinic1"}
    assert len({answer["pid"] for answer in found}) == 3
    assert min(answer["at"] for answer in found) < 1.5


def test_an_unknown_bundle_is_refused_and_told(clinic: Stack) -> None:
    evil = bundle("Path('stolen').touch()\n")
    (answer,) = ask(clinic, "evil", evil)
    assert "app bundle SHA is not approved at this clinic" in answer["error"]
    records = [json.loads(line) for line in clinic.config.messenger_audit_log.read_text().splitlines()]
    assert [record["sha256"] for record in records if record["id"] == 1010] == [hashlib.sha256(evil).hexdigest()]
    assert not list(clinic.folder.rglob("stolen"))


def test_a_clientapp_killed_at_work_is_told_at_once(clinic: Stack) -> None:
    out = clinic.folder / "killed.jsonl"
    clinic.run(bundle(), out, delay=60.0)
    os.kill(int(until(lambda: out.with_suffix(".pid").exists() and out.with_suffix(".pid").read_text(), 60)), 9)
    until(lambda: answers(out), 30)
    assert "ask again" in answers(out)[0]["error"]


def test_a_killed_supernode_is_back_at_once(clinic: Stack) -> None:
    before = clinic.node()
    clinic.kill("supernode")
    clinic.start("supernode")
    started = time.monotonic()
    until(lambda: clinic.node().last_activated_at != before.last_activated_at, 60)
    assert time.monotonic() - started < 30  # two heartbeats of Flower's are 60 s
    assert clinic.node().node_id == before.node_id
    assert ask(clinic, "back")[0]["error"] is None


def test_a_reply_survives_a_cut_line(clinic: Stack) -> None:
    out = clinic.folder / "cut.jsonl"
    clinic.wire.cut_after = clinic.wire.passed + 1_000_000
    clinic.run(bundle(), out, floats=1_500_000)
    until(lambda: clinic.wire.is_cut, 60)
    time.sleep(0.5)
    clinic.wire.mend()
    until(lambda: answers(out), 60)
    assert answers(out)[0]["error"] is None


def test_superlink_may_be_killed(clinic: Stack) -> None:
    events = clinic.config.messenger_audit_log
    clinic.kill("superlink")
    until(lambda: '"id":1016' in events.read_text().splitlines()[-1], 60)
    clinic.start("superlink")
    until(lambda: '"id":1017' in events.read_text().splitlines()[-1], 60)
    assert ask(clinic, "superlink")[0]["error"] is None


def test_both_leave_within_seconds_and_log_no_secret(clinic: Stack) -> None:
    secret = (clinic.config.messenger_state / "superexec.secret").read_text()
    for name in ("messenger", "supernode"):
        started = time.monotonic()
        assert clinic.kill(name, signal.SIGTERM) == 0, clinic.log(name)
        assert time.monotonic() - started < 5
        assert secret not in clinic.log(name)
    assert clinic.node().status == "offline"
