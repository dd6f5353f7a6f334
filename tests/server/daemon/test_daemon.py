"""The coordinator's daemon, with its real processes: SuperLink, superexec, nginx."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from melfed.common.audit.log import read_log
from melfed.common.errors import ServerConfigError, ServiceError
from melfed.common.process.child import ChildState
from melfed.common.study.protocol import DataSpec, FederationSpec, ModelSpec, StudyProtocol
from melfed.server.clinics.registry import revoke
from melfed.server.config import ServerConfig
from melfed.server.daemon.daemon import ServerDaemon, start
from melfed.server.daemon.reconciler import SILENT_SECONDS
from melfed.server.doctor import server_ports
from melfed.server.provisioning.provision import provision
from melfed.server.runs.request import queue_run
from melfed.server.runs.state import change_state, read_state
from melfed.server.status import server_status
from tests.server.coordinator import make_kits, record_of
from tests.server.daemon.test_reconciler import Place
from tests.server.flower_stack import until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class Server:
    """A daemon in a process of its own."""

    def __init__(self, config: ServerConfig, notify: Path) -> None:
        self.config = config
        self.messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.messages.bind(str(notify))
        self.messages.settimeout(60)
        command = [sys.executable, "-P", "-m", "melfed.server.cli.main", "start", str(config.path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NOTIFY_SOCKET": str(notify), "HTTPS_PROXY": "http://no:1"}
        with (config.folder / "start.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def await_ready(self) -> None:
        while b"READY=1" not in self.messages.recv(4096):
            pass

    def status(self) -> dict[str, Any]:
        return server_status(self.config).model_dump(mode="json")

    def told(self) -> dict[str, Any]:
        """What the command says."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "melfed.server.cli.main",
            "status",
            "--json",
            "--config",
            str(self.config.path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if found["running"] else 14)
        return found

    def pid(self, child: str) -> int | None:
        state = json.loads(self.config.daemon_state.read_text())
        return next(
            (row["pid"] for row in state["children"] if row["name"] == child and row["status"] == "ready"), None
        )

    def events(self) -> list[str]:
        return [str(row["event"]) for row in read_log(self.config.audit_log)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("c")
    found = Server(make_kits(folder), folder / "notify")
    try:
        found.await_ready()
        yield found
    finally:
        found.process.terminate()
        found.process.wait(60)
        found.messages.close()


def test_it_says_how_it_is(server):
    until("three clinics are registered", lambda: len(server.status()["clinics"]) == 3)
    found = server.told()
    assert found["running"]
    assert {row["name"]: row["status"] for row in found["children"]} == dict.fromkeys(
        ("superlink", "superexec", "nginx"), "ready"
    )
    assert [(row["name"], row["online"]) for row in found["clinics"]] == [("a", False), ("b", False), ("c", False)]
    assert found["problems"] == []


def test_health_and_metrics_answer_on_loopback(server):
    file = server.config.file
    with grpc.insecure_channel(f"127.0.0.1:{file.health_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "superlink", "superexec", "nginx"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
    text = urllib.request.urlopen(f"http://127.0.0.1:{file.metrics_port}/metrics", timeout=10).read().decode()
    assert 'melfed_clinic_online{clinic="a"} 0.0' in text
    assert 'melfed_child_ready{child="nginx"} 1.0' in text
    assert 'melfed_runs{status="queued"}' in text
    days = next(line for line in text.splitlines() if line.startswith('melfed_certificate_days{certificate="server"}'))
    assert 300 < float(days.split()[1]) < 366


def test_a_second_one_does_not_start(server):
    with pytest.raises(ServiceError, match="the server is run by process"):
        start(server.config)


def test_superlink_health_and_metrics_listen_on_loopback_alone(server):
    """Linux writes 127.0.0.1 as 0100007F, gRPC listens on its form in IPv6."""
    lines = "".join(Path(f"/proc/net/{table}").read_text() for table in ("tcp", "tcp6")).splitlines()
    listening = [line.split()[1].split(":") for line in lines if " 0A " in line]
    addresses = {int(port, 16): address for address, port in listening}
    file = server.config.file
    for port in (file.superlink_port, file.health_port, file.metrics_port):
        assert addresses[port].removeprefix("0000000000000000FFFF0000") == "0100007F"


def test_revoking_takes_a_second(server):
    revoke(server.config.clinics, "c")
    until("c is gone", lambda: not next(r for r in server.status()["clinics"] if r["name"] == "c")["node"])
    configuration = (server.config.state / "nginx" / "nginx.conf").read_text()
    assert record_of(server.config, "c").serial not in configuration
    assert record_of(server.config, "a").serial in configuration


def test_no_secret_is_on_a_command_line_or_in_a_log(server):
    secret = server.config.superexec_secret.read_bytes()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                assert secret not in (entry / "cmdline").read_bytes()
            except OSError:
                continue
    for log in server.config.logs.glob("*.log"):
        assert secret not in log.read_bytes()


def test_a_run_whose_serverapp_is_killed_goes_on_and_one_that_is_not_wanted_stops(server):
    study = StudyProtocol(
        name="waits",
        data=DataSpec(image_size=32),
        model=ModelSpec(backbone="simple_cnn", pretrained=False),
        federation=FederationSpec(rounds=1, deadline_seconds=300.0),
    )
    folder = queue_run(server.config.runs / "waits", study, ("a",), [])
    until("it runs", lambda: read_state(folder.path).status == "running")
    first = read_state(folder.path).flower_run
    os.kill(_serverapp(server.config), signal.SIGKILL)
    until("it runs again", lambda: read_state(folder.path).flower_run not in (None, first))
    until("it runs again", lambda: read_state(folder.path).status == "running")
    # The ServerApp outlives the superexec.
    survivor = _serverapp(server.config)
    before = server.pid("superexec")
    os.kill(before, signal.SIGKILL)
    until("superexec is back", lambda: server.pid("superexec") not in (None, before))
    assert _serverapp(server.config) == survivor
    # And a SuperLink that is started anew.
    attempt = read_state(folder.path).flower_run
    _renew_certificate(server)
    assert (_serverapp(server.config), read_state(folder.path).flower_run) == (survivor, attempt)
    change_state(folder.path, wanted=False)
    until("it is stopped", lambda: read_state(folder.path).status == "stopped")
    until("its process has ended", lambda: not Path(f"/proc/{survivor}/cmdline").exists() or _ended(survivor))
    assert "run-stopped" in server.events()


def _renew_certificate(server: Server) -> None:
    """SuperLink reads it at its start alone; half a kit, as while it is copied, ends nothing."""
    config, before = server.config, server.pid("superlink")
    old = config.certificate_key.read_bytes()
    provision(config.folder.parent / "consortium.yaml", config.folder.parent, renew="server")
    new = config.certificate_key.read_bytes()
    config.certificate_key.write_bytes(old)
    until("nginx refuses it", lambda: any("key" in problem for problem in server.status()["problems"]))
    assert server.pid("superlink") == before
    config.certificate_key.write_bytes(new)
    until("SuperLink is started anew", lambda: server.pid("superlink") not in (None, before))
    shown = ssl.get_server_certificate(("127.0.0.1", config.file.superlink_port))
    assert shown.strip() == config.certificate.read_text().strip()
    (reason,) = [row["reason"] for row in read_log(config.audit_log) if "certificate" in str(row.get("reason"))]
    assert "the server's certificate is a new one" in str(reason)
    until("it answers", lambda: server.status()["problems"] == [])


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _serverapp(config: ServerConfig) -> int:
    """Return the outermost process of that command: until it is another program, a child of it looks like it."""
    found = {
        process.pid: process.info["ppid"]
        for process in psutil.process_iter(["cmdline", "ppid", "status"])
        if {"serverapp", str(config.path)} <= set(process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    }
    (outermost,) = set(found) - {pid for pid, parent in found.items() if parent in found}
    return outermost


@pytest.mark.parametrize("child", ["nginx", "superlink"])
def test_a_child_that_is_killed_is_back(server, child):
    before = until("it runs", lambda: server.pid(child))
    os.kill(before, signal.SIGKILL)
    until(f"{child} is back", lambda: server.pid(child) not in (None, before))
    assert "child-ended" in server.events()


def test_killed_it_takes_its_children_along_and_told_to_end_it_does_so_within_seconds(tmp_path):
    config = make_kits(tmp_path / "k", "a")
    other = Server(config, tmp_path / "notify")
    other.await_ready()
    other.process.kill()
    other.process.wait(20)
    other.messages.close()
    until("all have ended", lambda: not _family(config))
    again = Server(config, tmp_path / "notify2")
    again.await_ready()
    again.process.terminate()
    assert again.process.wait(20) == 0
    again.messages.close()
    assert not _family(config)
    assert again.events()[-1] == "server-stopped"
    assert not again.told()["running"]


def _family(config: ServerConfig) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(config.folder) in command:
                found.append(command)
    return found


def test_it_is_not_ready_while_another_program_has_its_port_and_says_why(tmp_path):
    config = make_kits(tmp_path / "k", "a")
    with socket.create_server(("127.0.0.1", config.file.edge.port)) as taken:
        found = Server(config, tmp_path / "notify")
        try:

            def nginx() -> dict[str, Any]:
                rows = json.loads(config.daemon_state.read_text())["children"] if config.daemon_state.exists() else []
                return next((row for row in rows if row["name"] == "nginx"), {"reason": ""})

            until("nginx has ended", lambda: "Address already in use" in nginx()["reason"])
            assert nginx()["status"] != "ready"
            ended = [row for row in read_log(config.audit_log) if row["event"] == "child-ended"]
            assert {row["child"] for row in ended} == {"nginx"}
            assert "Address already in use" in str(ended[0]["reason"])
            assert "ready: nginx answers" not in (config.folder / "start.log").read_text()
            judged = server_ports(config)
            assert judged.status == "failed"
            assert f"edge.port {config.file.edge.port} by" in judged.detail
            assert "superlink_port" not in judged.detail
            taken.close()
            found.await_ready()
            assert server_ports(config).status == "ok"
            assert "in use" not in nginx()["reason"]
        finally:
            found.process.terminate()
            found.process.wait(60)
            found.messages.close()


def test_another_bundle_is_not_served(tmp_path):
    config = make_kits(tmp_path, "a")
    config.bundle.write_bytes(b"another")
    with pytest.raises(ServerConfigError, match="not the app bundle"):
        ServerDaemon(config)


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key", "superexec.secret", "melfed.fab"])
def test_a_file_of_the_kit_that_is_missing_is_told_before_nginx_is_asked(tmp_path, name):
    config = make_kits(tmp_path, "a")
    (config.folder / name).unlink()
    renew = ", or provision --renew server" if name in {"server.crt", "server.key"} else ""
    with pytest.raises(ServerConfigError) as caught:
        start(config)
    assert str(caught.value) == f"{config.folder / name}: missing; put the kit's own file back{renew}"
    assert not config.logs.exists()


def test_certificates_that_end_soon_are_told_of(tmp_path, caplog):
    config = make_kits(tmp_path, "ab")
    path = config.clinics / "a.json"
    content = json.loads(path.read_text()) | {"not_after": "2020-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(content))
    daemon = ServerDaemon(config)
    daemon.look_at_certificates((record_of(config, "a"), record_of(config, "b")))
    (row,) = read_log(config.audit_log)
    assert (row["event"], row["clinic"]) == ("certificate-expires", "a")
    assert float(str(row["days"])) < 0
    assert "clinic a" in caplog.text
    assert daemon.days["clinic b"] > 300


class Restarts:
    """In the supervisor's place."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.status = "ready"

    def states(self) -> dict[str, ChildState]:
        return {"superlink": ChildState("superlink", 1, self.status, 0, datetime.now(UTC), None, "")}

    def restart(self, name: str, why: str) -> None:
        self.asked.append((name, why))


def test_a_superlink_that_hangs_is_not_said_to_be_well_and_is_started_anew(tmp_path):
    place = Place(make_kits(tmp_path, "a"))
    daemon = ServerDaemon(place.config)
    daemon.supervisor, daemon.reconciler = supervisor, found = Restarts(), place.reconciler
    place.step()
    daemon.mend_superlink(found)
    assert daemon.standing().ready == {"superlink": True}
    place.control.down = True
    place.step()
    assert daemon.standing().ready == {"superlink": False}
    assert [row.status for row in daemon.state().children] == ["silent"]
    daemon.mend_superlink(found)
    assert supervisor.asked == []
    place.step(SILENT_SECONDS)
    daemon.mend_superlink(found)
    assert supervisor.asked == [("superlink", "it has not answered for 180 s")]
    # It has time to begin.
    place.step(SILENT_SECONDS / 2)
    daemon.mend_superlink(found)
    assert len(supervisor.asked) == 1
    place.control.down = False
    place.step()
    assert daemon.standing().ready == {"superlink": True}
    supervisor.status = "starting"
    assert daemon.standing().ready == {"superlink": False}


def test_logs_are_looked_after_in_each_step(tmp_path, monkeypatch):
    """A day is long enough for a stranger to fill the disk."""
    daemon = ServerDaemon(make_kits(tmp_path, "a"))
    daemon.supervisor = Restarts()
    daemon.supervisor.status = "starting"
    daemon.edge.folder.mkdir()
    log = daemon.edge.folder / "access.log"
    log.write_bytes(bytes(17 * 2**20))
    monkeypatch.setattr("melfed.server.daemon.daemon.STEP_SECONDS", 0.01)
    thread = threading.Thread(target=daemon._loop)
    daemon._looked = monotonic()
    thread.start()
    try:
        until("it is set aside", log.with_name("access.log.1").exists)
    finally:
        daemon.stop.set()
        thread.join(10)
    assert not log.exists()
