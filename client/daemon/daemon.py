"""The clinic's daemon: worker, SuperNode and messenger as children of one supervisor, and what tells how they are.

`melfed-client start` runs all three; under systemd, two units run the worker and the other two (`carry`), each half
under its own OS user. How they are is told by gRPC health on loopback, by a status file for `melfed-client status`, and
to systemd.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import sdnotify

import melfed.client
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import (
    OSUser,
    hand_over_keys,
    may_read,
    messenger_account,
    new_secret,
    prepare_messenger,
    prepare_worker,
    write_private,
)
from melfed.client.daemon.health import HealthServer
from melfed.client.rpc.api import melfed_version
from melfed.client.rpc.peer_credentials import knock
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import ServiceError, StorageError
from melfed.common.locks import FileLock, is_held, only_one
from melfed.common.process.child import ALLOCATOR
from melfed.common.process.supervisor import Backoff, Child, ChildState, Supervisor

Role = Literal["worker", "supernode", "messenger"]
ROLES: tuple[Role, ...] = ("worker", "supernode", "messenger")
CARRIERS: tuple[Role, ...] = ("supernode", "messenger")

LOOK_SECONDS = 5.0
"""How often the daemon looks how the processes are; what its own children do it hears at once."""

PROBE_SECONDS = 2.0
"""A worker that trains on all cores may take a while to answer the door."""

PROGRAM = Path(sys.executable)
"""The interpreter that children run with."""

STOP_SECONDS = {"worker": 10.0, "supernode": 3.0, "messenger": 3.0}
"""From SIGTERM to SIGKILL: the worker may finish its step."""

READY_SECONDS = 300.0
"""From start to readiness: PyTorch from a network disk, or on a machine with much else to do, takes minutes."""

Command = Callable[[ClinicConfig, Role], tuple[str, ...]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningDaemon:
    """What the daemon has written of itself for `status`: empty children where it only reserved the file."""

    pid: int
    since: str
    version: str
    children: tuple[dict[str, str | int | None], ...]


def own_command(config: ClinicConfig, role: Role) -> tuple[str, ...]:
    """Return the command of a child: this program again, by this interpreter."""
    # Without the working directory in front of the module path (-P): a kit's folder holds no code.
    return (str(PROGRAM), "-P", "-m", "melfed.client.cli.main", role, "--config", str(config.path))


class ClientDaemon:
    """Runs some of a clinic's processes until it is told to stop."""

    def __init__(
        self,
        config: ClinicConfig,
        roles: tuple[Role, ...] = ROLES,
        *,
        command: Command = own_command,
        backoff: Backoff | None = None,
    ) -> None:
        """Prepare the children; nothing is started, and nothing is written.

        Args:
            config: the clinic's.
            roles: which processes, in the order of starting.
            command: the command line of each.
            backoff: pauses between restarts.

        Raises:
            PolicyError: the messenger's user does not exist.
        """
        self.config, self.roles = config, roles
        self._messenger = messenger = messenger_account(config)
        self._supervisor = Supervisor(
            [self._child(role, command, messenger) for role in roles], self._on_event, backoff
        )
        # Two users write no common file: who has no worker to supervise may not write to the worker's log.
        self._audit = AuditLog(config.audit_log if "worker" in roles else config.messenger_audit_log, "daemon")
        self._health = HealthServer(config.file.health_port or 0)
        self._systemd = sdnotify.SystemdNotifier()
        self._since = datetime.now(UTC)
        self._ready = False
        self._stop = threading.Event()
        self._telling = threading.Lock()
        self._problem = ""

    @property
    def health_port(self) -> int:
        """Where the health service listens."""
        return self._health.port

    def run(self, stop: threading.Event) -> None:
        """Run the children until `stop` is set; on return all of them have ended.

        Raises:
            ServiceError: a daemon of this clinic runs already, the messenger's user cannot read what it needs, or the
                health port is taken.
            StorageError: a folder, the secret or a key cannot be prepared.
        """
        self._stop = stop
        with contextlib.ExitStack() as stack:
            prepare_messenger(self.config, self._messenger)  # the lock lies in that folder
            stack.enter_context(_only_daemon(lock_file(self.config)))
            # Not before: a daemon that runs already goes by the secret that it has made.
            self._prepare()
            if self.config.file.health_port is not None:
                stack.enter_context(self._health)
            looking = threading.Thread(target=self._look, name="look", daemon=True)
            looking.start()
            self._tell()
            try:
                self._supervisor.run(stop)
            finally:
                stop.set()
                looking.join(LOOK_SECONDS)
                with contextlib.suppress(OSError):
                    status_file(self.config).unlink(missing_ok=True)

    def states(self) -> Mapping[str, ChildState]:
        """Return how the children are."""
        return self._supervisor.states()

    def _prepare(self) -> None:
        """Make what the children need. Raises StorageError, ServiceError."""
        if "worker" in self.roles:
            prepare_worker(self.config)
        new_secret(self.config)
        if self._messenger is not None:
            hand_over_keys(self.config, self._messenger)
            _check_readable(self.config, self._messenger)

    def _child(self, role: Role, command: Command, messenger: OSUser | None) -> Child:
        after: dict[Role, tuple[str, ...]] = {"supernode": ("worker",), "messenger": ("supernode",)}
        probes = {"worker": lambda: worker_answers(self.config), "supernode": lambda: supernode_listens(self.config)}
        return Child(
            name=role,
            command=command(self.config, role),
            # Not the worker: what trains takes and gives the same memory at every step.
            environment=_environment() | (ALLOCATOR if role in CARRIERS else {}),
            user=messenger.name if messenger is not None and role in CARRIERS else None,
            ready=probes.get(role),
            after=tuple(name for name in after.get(role, ()) if name in self.roles),
            ready_seconds=READY_SECONDS,
            stop_seconds=STOP_SECONDS[role],
        )

    def _on_event(self, kind: str, child: str, detail: str) -> None:
        level = logging.WARNING if kind in ("ended", "failed", "unready", "killed", "log") else logging.INFO
        _log.log(level, "%s %s%s", child, kind, f": {detail}" if detail else "")
        if kind in ("ended", "failed") and not self._stop.is_set():
            restarts = self._supervisor.states()[child].restarts
            self._audit.record_or_hold(Event.CLINIC_CHILD_ENDED, child=child, reason=detail, restarts=restarts)
        self._tell()

    def _look(self) -> None:
        """See to it that what is told stays true of what no child's event tells: the worker of another unit."""
        stopping = False
        while not stopping:
            stopping = self._stop.wait(LOOK_SECONDS)
            self._tell()

    def _tell(self) -> None:
        """Tell health, systemd and `status` how the processes are."""
        with self._telling:
            serving = self._serving()
            self._health.tell(serving)
            words = ", ".join(f"{name} {'ready' if serves else 'not ready'}" for name, serves in serving.items())
            if self._stop.is_set():
                self._systemd.notify("STOPPING=1")
                return
            # The line to the coordinator may be down for hours: that is no reason for systemd to end the rest.
            if not self._ready and serving["worker" if "worker" in self.roles else "messenger"]:
                self._ready = True
                self._systemd.notify("READY=1")
            self._systemd.notify(f"STATUS={words}")
            self._write_status()

    def _serving(self) -> dict[str, bool]:
        serving = {name: state.status == "ready" for name, state in self._supervisor.states().items()}
        return serving if "worker" in serving else {"worker": worker_answers(self.config), **serving}

    def _write_status(self) -> None:
        children = [_described(state) for state in self._supervisor.states().values()]
        content = {"pid": os.getpid(), "since": self._since.isoformat(timespec="seconds")}
        text = json.dumps({**content, "version": melfed_version(), "children": children}, indent=1)
        problem = ""
        try:
            write_private(status_file(self.config), f"{text}\n".encode())
        except StorageError as error:
            problem = str(error)
        if problem and problem != self._problem:  # once, and not every few seconds
            _log.warning("%s", problem)
        self._problem = problem


def status_file(config: ClinicConfig) -> Path:
    """Return where a running daemon says how its children are."""
    return config.messenger_state / "status.json"


def lock_file(config: ClinicConfig) -> Path:
    """Return what a running daemon holds locked."""
    return config.messenger_state / "daemon.lock"


def read_status(config: ClinicConfig) -> RunningDaemon | None:
    """Return what a running daemon has written of itself; None where none runs.

    Raises:
        PermissionError, StorageError: this user may not know.
    """
    try:
        if is_held(lock_file(config)):
            content = json.loads(status_file(config).read_text(encoding="utf-8"))
            return RunningDaemon(content["pid"], content["since"], content["version"], tuple(content["children"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return None


def worker_answers(config: ClinicConfig) -> bool:
    """Tell whether a worker answers this process's user at the clinic's socket."""
    try:
        return knock(config.socket, PROBE_SECONDS) == "answers"
    except PermissionError:
        return False


def supernode_listens(config: ClinicConfig) -> bool:
    """Tell whether a SuperNode listens for the messenger on loopback."""
    try:
        socket.create_connection(("127.0.0.1", config.file.messenger.port), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Return what children get beside the daemon's own environment: nothing phones home, and they find this code."""
    above = os.environ.get("PYTHONPATH")
    code = str(Path(melfed.client.__file__).parents[2])
    return {
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "MELFED_OFFLINE": "1",
        "PYTHONPATH": f"{code}{os.pathsep}{above}" if above else code,
        "PYTHONUNBUFFERED": "1",
    }


def _described(state: ChildState) -> dict[str, str | int | None]:
    next_start = state.next_start.isoformat(timespec="seconds") if state.next_start else None
    return {
        "name": state.name,
        "pid": state.pid,
        "status": state.status,
        "restarts": state.restarts,
        "since": state.since.isoformat(timespec="seconds"),
        "next_start": next_start,
        "reason": state.reason,
    }


@contextlib.contextmanager
def _only_daemon(path: Path) -> Iterator[None]:
    """Hold the daemon's lock. Raises ServiceError where another one runs."""
    with only_one(path, "this clinic's daemon is run") as lock:
        if os.geteuid() == 0:
            _give_to_owner_of(path.parent, lock, path)
        yield


def _give_to_owner_of(folder: Path, lock: FileLock, path: Path) -> None:
    """Give an open file to its folder's owner, unless that is a name that they have given to somebody else's file."""
    if os.fstat(lock.descriptor).st_nlink > 1:
        raise StorageError(f"{path}: is another file's name as well; find out who has made it, and remove it")
    owner = folder.stat()
    os.fchown(lock.descriptor, owner.st_uid, owner.st_gid)


def _check_readable(config: ClinicConfig, messenger: OSUser) -> None:
    """Check that the messenger's user can read what it needs; a key is no use in a folder that it may not enter.

    Raises:
        ServiceError: naming the first file that it cannot read.
    """
    needed = (config.path, config.ca_certificate, config.certificate, config.certificate_key, config.node_key)
    code = Path(melfed.client.__file__).resolve()
    for path in (*needed, code, PROGRAM):
        if not may_read(messenger, path):
            raise ServiceError(
                f"{path}: the messenger's user {messenger.name} cannot read it; let that user read it and enter the "
                "folders above it, or move it to a place such as /etc/melfed or /opt"
            )
