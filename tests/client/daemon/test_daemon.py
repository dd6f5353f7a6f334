"""The clinic's daemon with fake children: what it starts, restarts, tells, and leaves behind (nothing)."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import melfed.client.daemon.daemon
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import (
    messenger_account,
    prepare_messenger,
    prepare_worker,
)
from melfed.client.daemon.daemon import (
    CARRIERS,
    ROLES,
    ClientDaemon,
    Role,
    lock_file,
    own_command,
    read_status,
    status_file,
    worker_answers,
)
from melfed.client.daemon.health import HealthServer, ask_health
from melfed.client.rpc.peer_credentials import REFUSAL
from melfed.common.audit.log import read_log
from melfed.common.errors import ServiceError, StorageError
from melfed.common.process.child import ALLOCATOR
from melfed.common.process.supervisor import Backoff
from tests.client.clinics import a_clinic

LISTEN = {
    "worker": """s = socket.socket(socket.AF_UNIX); s.bind({socket!r}); s.listen()
while True:
    guest, _ = s.accept(); guest.sendall({greeting!r}); guest.close()""",
    "supernode": "s = socket.create_server(('127.0.0.1', {port}))",
    "messenger": "",
}
QUICK = Backoff(first=0.05, largest=0.2)
DEADLINE = 10.0


def fake(config: ClinicConfig, role: Role, greeting: bytes = b"HTTP/2") -> tuple[str, ...]:
    """A process that listens where the real one would, and then waits."""
    listen = LISTEN[role].format(socket=str(config.socket), port=config.file.messenger.port, greeting=greeting)
    unlink = f"import os, socket, time; os.path.exists({str(config.socket)!r}) and {role == 'worker'} and "
    code = f"{unlink}os.unlink({str(config.socket)!r})\n{listen}\ntime.sleep(60)"
    return (str(melfed.client.daemon.daemon.PROGRAM), "-I", "-S", "-c", code)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as line:
        return int(line.getsockname()[1])


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return a_clinic(tmp_path, messenger={"port": free_port()}, health_port=free_port())


@contextmanager
def running(daemon: ClientDaemon) -> Iterator[None]:
    """Run a daemon in a thread; afterwards it has ended without an error."""
    stop, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            daemon.run(stop)
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert errors == []


def all_ready(daemon: ClientDaemon) -> bool:
    return all(state.status == "ready" for state in daemon.states().values())


def serving(config: ClinicConfig) -> dict[str, bool] | None:
    return ask_health(config.file.health_port or 0, ("", "worker", "supernode", "messenger", "other"))


def test_three_processes_run_are_told_of_and_end(config: ClinicConfig) -> None:
    assert read_status(config) is None
    daemon = ClientDaemon(config, command=fake, backoff=QUICK)
    with running(daemon):
        until(lambda: all_ready(daemon))
        states = daemon.states()
        assert list(states) == ["worker", "supernode", "messenger"]
        until(lambda: (serving(config) or {}).get(""))
        assert serving(config) == {"": True, "worker": True, "supernode": True, "messenger": True}
        told = read_status(config)
        assert told is not None
        assert told.pid == os.getpid()
        assert [(child["name"], child["pid"]) for child in told.children] == [
            (name, state.pid) for name, state in states.items()
        ]
        assert stat.S_IMODE(status_file(config).stat().st_mode) == 0o600
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert not any(Path(f"/proc/{state.pid}").exists() for state in states.values())
    assert (read_status(config), serving(config), status_file(config).exists()) == (None, None, False)
    assert list(read_log(config.audit_log)) == []


def test_a_killed_child_comes_back_and_is_in_the_audit_log(config: ClinicConfig) -> None:
    daemon = ClientDaemon(config, command=fake, backoff=QUICK)
    with running(daemon):
        until(lambda: all_ready(daemon))
        first = daemon.states()["supernode"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: daemon.states()["supernode"].pid not in (first, None) and all_ready(daemon))
        assert daemon.states()["worker"].restarts == 0
    (row,) = read_log(config.audit_log)
    assert (row["id"], row["child"]) == (1013, "supernode")
    assert "SIGKILL" in str(row["reason"])


def test_health_says_which_process_is_not_there(config: ClinicConfig) -> None:
    def without_messenger(here: ClinicConfig, role: Role) -> tuple[str, ...]:
        return (sys.executable, "-I", "-S", "-c", "exit(3)") if role == "supernode" else fake(here, role)

    daemon = ClientDaemon(config, command=without_messenger, backoff=QUICK)
    with running(daemon):
        until(lambda: (serving(config) or {}).get("worker"))
        until(lambda: daemon.states()["supernode"].restarts)
        assert serving(config) == {"": False, "worker": True, "supernode": False, "messenger": False}


def test_carriers_alone_write_nothing_of_the_workers_and_see_whether_it_is_there(config: ClinicConfig) -> None:
    daemon = ClientDaemon(config, CARRIERS, command=fake, backoff=QUICK)
    assert not config.worker_state.exists()
    with running(daemon):
        until(lambda: all_ready(daemon))
        assert serving(config) == {"": False, "worker": False, "supernode": True, "messenger": True}
        os.kill(daemon.states()["messenger"].pid or 0, signal.SIGKILL)
        until(lambda: daemon.states()["messenger"].restarts)
    assert [row["child"] for row in read_log(config.messenger_audit_log)] == ["messenger"]
    assert not config.worker_state.exists()


@pytest.mark.parametrize("greeting", [REFUSAL, b""])
def test_a_worker_that_turns_the_messenger_away_is_not_told_to_be_ready(config: ClinicConfig, greeting: bytes) -> None:
    prepare_worker(config)
    worker = subprocess.Popen(fake(config, "worker", greeting))
    try:
        until(config.socket.exists)
        daemon = ClientDaemon(config, CARRIERS, command=fake, backoff=QUICK)
        with running(daemon):
            until(lambda: all_ready(daemon))
            daemon._tell()
            assert serving(config) == {"": False, "worker": False, "supernode": True, "messenger": True}
    finally:
        worker.kill()
        worker.wait()


def written(config: ClinicConfig) -> set[Path]:
    """The files of the state, without one that is being written just now."""
    return {path for path in config.state.rglob("*") if path.is_file() and not path.name.startswith(".")}


def test_one_daemon_at_a_time(config: ClinicConfig) -> None:
    daemon = ClientDaemon(config, command=fake, backoff=QUICK)
    with running(daemon):
        until(lambda: all_ready(daemon))
        before = {path: path.read_bytes() for path in written(config)}
        for roles in (CARRIERS, ROLES):
            with pytest.raises(ServiceError, match="daemon is run by process"):
                ClientDaemon(config, roles, command=fake).run(threading.Event())
        assert before[config.superexec_secret] == config.superexec_secret.read_bytes()
        assert before.keys() == written(config)
        assert all_ready(daemon)


def test_a_health_port_that_is_taken_is_said(config: ClinicConfig) -> None:
    with HealthServer(0) as other:
        taken = a_clinic(config.folder, messenger={"port": free_port()}, health_port=other.port)
        with pytest.raises(ServiceError, match=rf"port {other.port} on loopback is taken.*health_port"):
            ClientDaemon(taken, command=fake).run(threading.Event())
    assert not worker_answers(config)


def test_systemd_hears_of_readiness_and_of_the_end(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(config.folder / "notify"))
        line.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(config.folder / "notify"))
        daemon = ClientDaemon(config, command=fake, backoff=QUICK)
        heard: list[str] = []
        with running(daemon):
            while "READY=1" not in heard:
                heard.append(line.recv(4096).decode())
            assert daemon.states()["worker"].status == "ready"
            until(lambda: all_ready(daemon))
        while "STOPPING=1" not in heard:
            heard.append(line.recv(4096).decode())
    assert heard.count("READY=1") == 1
    assert any(text.startswith("STATUS=worker ready") for text in heard)


@pytest.mark.skipif(os.geteuid() != 0, reason="changes users: needs root")
def test_run_as_root_the_messenger_is_another_user_who_cannot_read_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below /opt, since a folder of pytest's lets no other user in; and by an interpreter that everybody may run."""
    everybodys = Path("/usr/bin/python3")
    if not everybodys.exists():
        pytest.skip(f"no {everybodys}")
    monkeypatch.setattr(melfed.client.daemon.daemon, "PROGRAM", everybodys)
    with tempfile.TemporaryDirectory(dir="/opt") as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = a_clinic(folder, messenger={"user": "nobody", "port": free_port()})
        for path in (config.ca_certificate, config.certificate, config.certificate_key, config.node_key):
            path.write_text("content")
        config.data_folder.mkdir(mode=0o700)
        config.path.chmod(0o644)
        config.ca_certificate.chmod(0o600)
        with pytest.raises(ServiceError, match=r"ca.crt: the messenger's user nobody cannot read it"):
            ClientDaemon(config, command=fake).run(threading.Event())
        for path in (config.ca_certificate, config.certificate):
            path.chmod(0o644)
        daemon = ClientDaemon(config, command=fake, backoff=QUICK)
        nobody = messenger_account(config)
        assert nobody is not None
        with running(daemon):
            until(lambda: all_ready(daemon))
            # The messenger counts as ready when it is started, and changes its user right after.
            expected = {"worker": 0, "supernode": nobody.uid, "messenger": nobody.uid}
            until(lambda: {n: Path(f"/proc/{s.pid}").stat().st_uid for n, s in daemon.states().items()} == expected)

            def may(*command: str) -> bool:
                asked = subprocess.run(
                    command, user=nobody.uid, group=nobody.gid, extra_groups=(), check=False, capture_output=True
                )
                return asked.returncode == 0

            assert not may("ls", str(config.data_folder))
            assert not may("ls", str(config.worker_state))
            assert may("ls", str(config.messenger_state))
            assert may("cat", str(config.node_key))
            assert may("cat", str(config.superexec_secret))
            assert may("test", "-S", str(config.socket))
            assert not may("touch", str(config.run / "x"))
            assert {config.node_key.stat().st_uid, config.certificate_key.stat().st_uid} == {nobody.uid}
            assert stat.S_IMODE(config.node_key.stat().st_mode) == 0o600
            assert config.messenger_audit_log.stat().st_uid == nobody.uid


def test_children_find_this_code_and_nothing_in_the_kit(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").write_text("raise SystemExit(9)")
    daemon = ClientDaemon(config, command=fake)
    child = daemon._child("worker", own_command, None)
    assert child.command[-2:] == ("--config", str(config.path))
    command = [*child.command[:-2], "--help"]
    environment = {**os.environ, **child.environment}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "Run the worker alone" in done.stdout) == (0, True), done.stderr
    assert json.dumps(dict(child.environment)).count("MELFED_OFFLINE") == 1


def test_what_carries_gives_memory_back_and_what_trains_keeps_it(tmp_path: Path) -> None:
    daemon = ClientDaemon(a_clinic(tmp_path), command=fake)
    thrifty = {role for role in ROLES if ALLOCATOR.items() <= daemon._child(role, fake, None).environment.items()}
    assert thrifty == {"supernode", "messenger"}


def test_a_full_disk_is_told_of_once_each_time(
    config: ClinicConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StorageError("status.json: cannot be written: No space left on device")

    daemon = ClientDaemon(config, command=fake)
    for times in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(melfed.client.daemon.daemon, "write_private", full)
            daemon._tell()
            daemon._tell()
        assert caplog.text.count("No space left on device") == times
        daemon._tell()


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives files away")
def test_links_in_the_messengers_folder_give_it_no_file_of_others(config: ClinicConfig) -> None:
    """The folder is the messenger's own: whoever has taken it over can put anything there."""
    prepare_messenger(config)
    treasure = config.state / "treasure"
    treasure.write_text("root's")
    owner = config.messenger_state.stat().st_uid + 1
    os.chown(config.messenger_state, owner, -1)
    daemon = ClientDaemon(config, command=fake, backoff=QUICK)
    for link in (lock_file(config).hardlink_to, lock_file(config).symlink_to):
        lock_file(config).unlink(missing_ok=True)
        link(treasure)
        with pytest.raises(StorageError, match=lock_file(config).name):
            daemon.run(threading.Event())
    config.messenger_audit_log.unlink()
    config.messenger_audit_log.symlink_to(config.state / "made")
    with pytest.raises(StorageError, match="cannot be made"):
        prepare_messenger(config)
    assert not (config.state / "made").exists()
    assert treasure.stat().st_uid != owner
    assert treasure.read_text() == "root's"
