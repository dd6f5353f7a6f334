"""The worker as a process: it reads the clinic's images, trains, keeps the ledger, and answers on its socket.

It opens no connection to anywhere: the socket of the messenger, health and metrics on loopback are all it has.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import sdnotify
from grpc_health.v1 import health_pb2_grpc

from melfed.client.approval.approvals import effective_policy
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import account, prepare_worker
from melfed.client.ledger.witness import Witness
from melfed.client.models.deliveries import Deliveries
from melfed.client.rpc.api import melfed_version
from melfed.client.rpc.peer_credentials import Door, Refusals, check_path
from melfed.client.worker.disclosure import Telling
from melfed.client.worker.grpc_server import Servicer, WorkerServer
from melfed.client.worker.outbox import Outbox
from melfed.client.worker.prometheus import LOOPBACK, WorkerMetrics
from melfed.client.worker.service import Service, StudyWorker, read_sealed
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import LedgerError, PolicyError, ServiceError, StudyError
from melfed.common.locks import only_one
from melfed.common.study.protocol import StudyProtocol

if TYPE_CHECKING:
    import torch

LEAVE_SECONDS = 5.0
"""Within which a step of training usually ends; what does not is left to the ledger, which counts it."""
ANSWER_SECONDS = 2.0

_log = logging.getLogger(__name__)


def serve(config: ClinicConfig, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Answer until `stop` is set; then take no more questions, let the step finish, and return within seconds.

    Args:
        config: the clinic's.
        stop: set it to end, for example on SIGTERM.
        ready: called when questions are answered; systemd is told as well.

    Raises:
        ServiceError: another worker runs, or a socket or port cannot be made.
        LedgerError: the ledger is older than the audit log, or missing (`melfed.client.ledger.witness`).
        PolicyError: the configuration names a user that does not exist, or no data, or a device that is not there.
        StorageError: the state folder cannot be written to.
    """
    prepare_worker(config)
    inner = config.worker_state / "grpc.sock"
    check_path(inner)
    users = _users(config)
    with only_one(config.worker_state / "worker.lock", "the clinic's worker is run"), contextlib.ExitStack() as stack:
        device = device_of(config)
        audit, metrics = AuditLog(config.audit_log, "worker"), WorkerMetrics(budget=config.file.tell.budget)
        witness = Witness(config.ledger, audit)
        witness.begin()
        _show_budget(config, metrics)

        def refused(uid: int, pid: int, count: int) -> None:
            audit.record_or_hold(Event.PEER_REFUSED, uid=uid, pid=pid, count=count, reason="not the messenger's user")

        service = Service(
            config.name,
            _workers(config, device, witness),
            lambda: effective_policy(config),
            Outbox(config.worker_state / "outbox"),
            audit,
            metrics,
            _stamp(config),
        )
        server = WorkerServer(
            Servicer(
                service,
                lambda sent: metrics.traffic(sent=sent),
                Telling(config.file.tell.budget),
                Deliveries(config, lambda: effective_policy(config), read_sealed, audit),
            ),
            inner,
        )

        # Last of all, when the last question has been answered or written down.
        @stack.callback
        def stopped() -> None:
            reason = "asked to stop" if stop.is_set() else "could not begin"
            audit.record_or_hold(Event.WORKER_STOPPED, reason=reason)

        server.start()
        stack.callback(server.stop, ANSWER_SECONDS)
        if config.file.metrics_port is not None:
            stack.enter_context(metrics.served(config.file.metrics_port))
        if config.file.health_port is not None:
            stack.callback(_serve_health(server, config.file.health_port).stop, None)
        stack.enter_context(Door(config.socket, inner, users, Refusals(refused)))
        audit.record(Event.WORKER_STARTED, version=melfed_version(), device=str(device))
        systemd = sdnotify.SystemdNotifier()
        systemd.notify("READY=1")
        ready()
        stop.wait()
        systemd.notify("STOPPING=1")
        if not service.stop(LEAVE_SECONDS):
            _log.warning("a step of training takes more than %g s; it is left undone", LEAVE_SECONDS)
        # Before the door closes: those who wait hear that the worker stops.
        server.stop(ANSWER_SECONDS)


def _users(config: ClinicConfig) -> set[int]:
    """Return the ids of the users whose processes may ask: the worker's own, root, and the messenger's."""
    named = config.file.messenger.user
    return {os.geteuid(), 0} | ({account(named).uid} if named else set())


def device_of(config: ClinicConfig) -> "torch.device":
    """Return where to train, with torch loaded and its threads set. Raises PolicyError."""
    import torch

    # Loaded now, so that the first question does not wait for it.
    import melfed.client.worker.worker  # noqa: F401
    from melfed.common.model.inference import pick_device

    resources = config.file.resources
    if resources.threads is not None:
        torch.set_num_threads(resources.threads)
    device = pick_device(None if resources.device == "auto" else resources.device)
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        found = torch.cuda.device_count()
        raise PolicyError(f"{config.path}: resources.device is {resources.device}, but {found} GPUs can be used here")
    return device


def _workers(config: ClinicConfig, device: "torch.device", witness: Witness) -> Callable[[StudyProtocol], StudyWorker]:
    """Return what makes the worker of a study on the clinic's data."""
    from melfed.client.data.loading import clinic_data
    from melfed.client.worker.guard import Protection
    from melfed.client.worker.worker import ClinicWorker

    def worker(study: StudyProtocol) -> StudyWorker:
        if study.data.phantom is not None:
            raise StudyError("the study is of synthetic lesions: it is for simulation alone")
        protection = Protection(config.ledger, effective_policy(config), witness)
        data = clinic_data(config, study)
        return ClinicWorker(
            data,
            study,
            config.weights_folder,
            device,
            protection=protection,
            tell=config.file.tell,
            states=config.worker_state / "states",
        )

    return worker


def _stamp(config: ClinicConfig) -> Callable[[], str]:
    from melfed.client.data.loading import stamp

    return lambda: stamp(config)


def _show_budget(config: ClinicConfig, metrics: WorkerMetrics) -> None:
    """Tell the monitoring how much ε the ledger has, before the first request."""
    from melfed.client.ledger.ledger import verify
    from melfed.client.privacy.accounting import Mechanism, epsilon

    if not config.ledger.exists():
        return
    try:
        rows = [row for row in verify(config.ledger).rows if row.status == "reserved"]
    except LedgerError as error:
        # Every request will be refused for it, and health, metrics and log stay to be looked at.
        _log.error("%s", error)
        return
    policy = effective_policy(config)
    history = [Mechanism(row.sampling_rate, row.noise_multiplier, row.steps) for row in rows]
    spent = epsilon(history, policy.delta)
    metrics.privacy(spent, max(policy.epsilon - spent, 0.0))


def _serve_health(server: WorkerServer, port: int) -> grpc.Server:
    """Answer gRPC's health service, and nothing else, on a port of loopback.

    Raises:
        ServiceError: the port is taken.
    """
    health = grpc.server(ThreadPoolExecutor(2, "health-port"), options=(("grpc.so_reuseport", 0),))
    health_pb2_grpc.add_HealthServicer_to_server(server.health, health)
    try:
        health.add_insecure_port(f"{LOOPBACK}:{port}")
    except RuntimeError:
        raise ServiceError(f"health_port {port} on {LOOPBACK} is taken; name another in clinic.yaml") from None
    health.start()
    return health
