"""The coordinator's daemon, `melfed-server start`: SuperLink, superexec, nginx, supervised, and a loop beside them."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from time import monotonic

from sdnotify import SystemdNotifier

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import MelfedError, ServerConfigError, StorageError
from melfed.common.locks import only_one
from melfed.common.process.supervisor import Child, Supervisor
from melfed.server.clinics.certificates import WARN_DAYS, read_certificate
from melfed.server.clinics.registry import ClinicRecord, read_clinics
from melfed.server.config import ServerConfig
from melfed.server.daemon.health import Health
from melfed.server.daemon.prometheus import ServerMetrics, Standing, served
from melfed.server.daemon.reconciler import SILENT_SECONDS, Reconciler
from melfed.server.daemon.state import ChildRow, ClinicRow, DaemonState, write_daemon_state
from melfed.server.edge.nginx import Edge, edge_ready, nginx_complaint
from melfed.server.flower.app_bundle import check_bundle
from melfed.server.flower.control_client import Control
from melfed.server.flower.superlink import command, quiet_environment, read_file

STEP_SECONDS = 1.0
"""Between two looks at what is and what is wanted."""

TELL_SECONDS = 10.0
"""Longest between two writings of daemon.json."""

LOCK_SECONDS = 2.0
"""For those that look, for a moment, whether the daemon runs: `status`, and whoever follows a run."""

DAY = 86_400.0
CONNECT_SECONDS = 1.0
_log = logging.getLogger("melfed.server")


def start(config: ServerConfig) -> None:
    """Run the server until SIGTERM or SIGINT.

    Raises:
        ServerConfigError: the kit is not whole, or not of this version of melfed.
        ServiceError: it runs already, nginx is missing or refuses its configuration, or a port is taken.
        StorageError: the state folder cannot be written.
    """
    check_kit(config)
    _make_folders(config)
    with only_one(config.daemon_lock, "the server is run", LOCK_SECONDS):
        ServerDaemon(config).run()


def check_kit(config: ServerConfig) -> None:
    """See that the kit's files are there: nginx would be the first to miss some, and no restart mends that.

    Raises:
        ServerConfigError: one is missing.
    """
    own = (config.certificate, config.certificate_key)
    for path in (config.ca_certificate, *own, config.superexec_secret, config.bundle):
        if not path.exists():
            renew = ", or provision --renew server" if path in own else ""
            raise ServerConfigError(f"{path}: missing; put the kit's own file back{renew}")


def _make_folders(config: ServerConfig) -> None:
    for folder in (config.state, config.runs, config.logs, config.state / "flower"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made: {error.strerror}; see who owns the folder above") from None


def children(config: ServerConfig, edge: Edge) -> tuple[Child, ...]:
    """Return the processes that make the server. Raises ServiceError where nginx is not installed."""
    passed_on = ("FLWR_", "MELFED_", "MALLOC_")
    environment = {name: value for name, value in quiet_environment(config).items() if name.startswith(passed_on)}
    return (
        Child(
            "superlink",
            command(config, "superlink"),
            environment,
            ready=lambda: _listens(config.file.superlink_port),
            log=config.logs / "superlink.log",
        ),
        Child(
            "superexec",
            command(config, "superexec"),
            environment,
            log=config.logs / "superexec.log",
            after=("superlink",),
        ),
        Child(
            "nginx",
            edge.command(),
            ready=lambda: edge_ready(config),
            log=config.logs / "nginx.log",
            after=("superlink",),
        ),
    )


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS):
        return True


@dataclass
class ServerDaemon:
    """A server that runs."""

    config: ServerConfig
    stop: threading.Event = field(default_factory=threading.Event)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        self.bundle = read_file(self.config.bundle)
        check_bundle(self.bundle, str(self.config.bundle))
        self.edge = Edge(self.config)
        self.audit = AuditLog(self.config.audit_log, "daemon")
        self.health = Health()
        self.notifier = SystemdNotifier()
        if self.notifier.socket is not None:
            self.notifier.socket.setblocking(False)  # the server does not wait for whoever should hear this
        self.reconciler: Reconciler | None = None
        self.days: dict[str, float] = {}
        self._failure: BaseException | None = None
        self._told: tuple[float, DaemonState | None] = (0.0, None)
        self._looked = -DAY
        self._ready, self._status, self._certificates = False, "", ""
        self._complaint = ""

    def run(self) -> None:
        """Run until `stop` is set; raises as `start`."""
        clinics = read_clinics(self.config.clinics)
        self.look_at_certificates(clinics)
        self.edge.write(clinics)
        self._certificates = self.edge.certificates
        if left := self.edge.end_leftovers():
            _log.warning("ended %d processes of an nginx that was left over", left)
        self.supervisor = Supervisor(children(self.config, self.edge), self._heard)
        metrics = ServerMetrics(self.config.runs, self.standing)
        with (
            _signals(self.stop),
            self.health.served(self.config.file.health_port),
            served(metrics, self.config.file.metrics_port),
        ):
            names = [record.name for record in clinics if not record.revoked]
            port = self.config.file.edge.port
            self.audit.record(Event.SERVER_STARTED, version=version("melfed"), port=port, clinics=len(names))
            thread = threading.Thread(target=self._guarded, name="loop", daemon=True)
            thread.start()
            try:
                self.supervisor.run(self.stop)
            finally:
                self.stop.set()
                thread.join(30)
                self.notifier.notify("STOPPING=1")
            with contextlib.suppress(StorageError):
                self.audit.record(Event.SERVER_STOPPED, reason="failed" if self._failure else "asked to")
        if self._failure is not None:
            raise self._failure

    def _guarded(self) -> None:
        """Have a fault of the program end the daemon: a loop that is dead would go unnoticed."""
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 (raised again by `run`)
            self._failure = error
            self.stop.set()

    def _loop(self) -> None:
        with Control(self.config) as control:
            self.reconciler = Reconciler(self.config, control, self.edge, self.bundle, self.audit)
            while not self.stop.wait(STEP_SECONDS):
                if self.supervisor.states()["superlink"].status == "ready":
                    self.reconciler.step()
                    self.mend_superlink(self.reconciler)
                else:
                    self.reconciler.silent_since = None
                with contextlib.suppress(OSError):  # somebody else's hand; the next look sees to it
                    self.edge.trim_logs()
                self._daily()
                self._tell()
                self.notifier.notify("WATCHDOG=1")

    def _daily(self) -> None:
        if monotonic() - self._looked < DAY:
            return
        with contextlib.suppress(MelfedError):  # a file of the kit that is gone is told of by `problems`
            self.look_at_certificates(read_clinics(self.config.clinics))

    def mend_superlink(self, found: Reconciler) -> None:
        """Have SuperLink started anew where it hangs, or where it still shows a certificate that was renewed.

        nginx tries certificate and key before they count, so that a kit which is half copied ends nothing.
        """
        if self.edge.certificates != self._certificates:
            self._certificates = self.edge.certificates
            self._looked = monotonic() - DAY
            self.supervisor.restart("superlink", "the server's certificate is a new one")
        elif found.hangs():
            found.silent_since = found.clock()
            self.supervisor.restart("superlink", f"it has not answered for {SILENT_SECONDS:g} s")

    def look_at_certificates(self, clinics: tuple[ClinicRecord, ...]) -> None:
        """Note how long all certificates last, and tell of those that end soon.

        Raises:
            ServerConfigError: the server's own cannot be read.
        """
        self._looked = monotonic()
        ends = {
            "ca": read_certificate(self.config.ca_certificate).not_after,
            "server": read_certificate(self.config.certificate).not_after,
        }
        whose = {record.name: datetime.fromisoformat(record.not_after) for record in clinics if not record.revoked}
        ends |= {f"clinic {name}": end for name, end in whose.items()}
        now = datetime.now(UTC)
        self.days = {name: (end - now).total_seconds() / DAY for name, end in ends.items()}
        for name, days in self.days.items():
            if days <= WARN_DAYS:
                _log.warning("the certificate of %s ends in %.0f days; see melfed-server provision --renew", name, days)
                fields = {"clinic": name.removeprefix("clinic ")} if name.startswith("clinic ") else {}
                expires = ends[name].isoformat(timespec="seconds")
                with contextlib.suppress(StorageError):
                    self.audit.record(
                        Event.CERTIFICATE_EXPIRES, certificate=name, expires=expires, days=round(days), **fields
                    )

    def _heard(self, kind: str, child: str, detail: str) -> None:
        """Write down what the supervisor tells."""
        usual = kind in {"started", "ready", "stopped"}
        if child == "nginx" and kind in {"ended", "failed", "unready"} and (said := nginx_complaint(self.config)):
            self._complaint = said
            detail = f"{detail}: {said}"
        elif (child, kind) == ("nginx", "ready"):
            self._complaint = ""
        _log.log(logging.INFO if usual else logging.WARNING, "%s %s %s", child, kind, detail)
        if kind in {"ended", "failed", "unready"}:
            restarts = self.supervisor.states()[child].restarts
            self.audit.record_or_hold(Event.SERVER_CHILD_ENDED, child=child, reason=detail, restarts=restarts)

    def state(self) -> DaemonState:
        """Return how everything is now."""
        silent = self.reconciler is not None and self.reconciler.silent_since is not None
        rows = tuple(
            ChildRow(
                name=s.name,
                status="silent" if silent and (s.name, s.status) == ("superlink", "ready") else s.status,
                pid=s.pid,
                restarts=s.restarts,
                reason=f"{s.reason}: {self._complaint}" if s.name == "nginx" and self._complaint else s.reason,
            )
            for s in self.supervisor.states().values()
        )
        clinics: tuple[ClinicRow, ...] = ()
        problems: tuple[str, ...] = ()
        if self.reconciler is not None:
            clinics, problems = _clinic_rows(self.reconciler), self.reconciler.problems
        return DaemonState(pid=os.getpid(), started=self.started, children=rows, clinics=clinics, problems=problems)

    def standing(self) -> Standing:
        """Return what the metrics say of now."""
        state = self.state()
        return Standing(
            clinics={row.name: row.online for row in state.clinics if not row.revoked},
            restarts={row.name: row.restarts for row in state.children},
            ready={row.name: row.status == "ready" for row in state.children},
            certificate_days=dict(self.days),
        )

    def _tell(self) -> None:
        """Tell everybody who asks: daemon.json, the health service, systemd."""
        state = self.state()
        at, before = self._told
        if state != before or monotonic() - at > TELL_SECONDS:
            with contextlib.suppress(StorageError):  # told of by the reconciler
                write_daemon_state(self.config.daemon_state, state)
            self._told = (monotonic(), state)
        ready = {row.name: row.status == "ready" for row in state.children}
        self.health.tell(ready, all(ready.values()))
        if all(ready.values()) and not self._ready:
            self._ready = True
            _log.info("ready: nginx answers on port %d", self.config.file.edge.port)
            self.notifier.notify("READY=1")
        online = sum(row.online for row in state.clinics)
        status = f"STATUS={online} of {sum(not row.revoked for row in state.clinics)} clinics online"
        if status != self._status:
            self._status = status
            self.notifier.notify(status)


def _clinic_rows(found: Reconciler) -> tuple[ClinicRow, ...]:
    nodes = {node.name: node for node in found.nodes}
    rows = []
    for record in found.clinics:
        node = nodes.get(record.name)
        rows.append(
            ClinicRow(
                name=record.name,
                online=node is not None and node.online,
                revoked=record.revoked,
                node=node.node_id if node else None,
                since=node.since.isoformat(timespec="seconds") if node and node.since else None,
                certificate_ends=record.not_after,
            )
        )
    return tuple(rows)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set an event."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
