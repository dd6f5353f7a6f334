"""Flower's SuperNode in this process, with what a clinic needs beyond it.

Flower has no settings for any of this, so parts of it are replaced here: the client certificate, quick polls, a return
right after a crash, patience with a broken line, and an end to work that nobody waits for any more. Each part that is
replaced or relied on is compared with the one that this was written for (`melfed.common.flower_pins`).
"""

import importlib
import ssl
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from melfed.client.config.clinic import ClinicConfig
from melfed.client.flower.compatibility import check_bundle, prepare, quick_pulls
from melfed.common.audit.library_logs import log_plainly
from melfed.common.audit.log import AuditLog
from melfed.common.errors import ServiceError
from melfed.common.flower_pins import check_flower

_NOT_OURS = "the messenger's user may not read it; give it to that user (chown), mode 0600"


def tls_context(config: ClinicConfig) -> ssl.SSLContext:
    """Return what verifies the server against the consortium's CA and shows the clinic's own certificate.

    Raises:
        ServiceError: one of the kit's files is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = str(config.ca_certificate)
    try:
        context.load_verify_locations(files)
        files = f"{config.certificate} and {config.certificate_key.name}"
        # A key with a passphrase would have OpenSSL ask at a terminal.
        context.load_cert_chain(config.certificate, config.certificate_key, password="")
    except PermissionError:
        raise ServiceError(f"{files}: {_NOT_OURS}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise ServiceError(f"{files}: cannot be used: {reason}; put the kit's own files back") from None
    return context


def address(config: ClinicConfig) -> str:
    """Return the coordinator's host and port. Raises ServiceError where clinic.yaml names none."""
    coordinator = config.file.coordinator
    if coordinator is None:
        raise ServiceError(f"{config.path}: names no coordinator; add 'coordinator:' with its host and port")
    host = f"[{coordinator.host}]" if ":" in coordinator.host else coordinator.host
    return f"{host}:{coordinator.port}"


def adapt(config: ClinicConfig, context: ssl.SSLContext) -> None:
    """Put melfed's parts in the place of Flower's, in this process. Raises ServiceError for another Flower."""
    check_flower("SuperNode")
    from flwr.supercore.retry import exponential

    from melfed.client.flower.fleet_client import HEARTBEAT_SECONDS, MAX_RETRY_SECONDS, ClinicFleetClient, Line
    from melfed.client.flower.object_files import object_folder, received
    from melfed.client.flower.object_store import FileObjectStore
    from melfed.client.flower.relay import Carrier

    line = Line(address(config), AuditLog(config.messenger_audit_log, "supernode"))
    carrier = Carrier(partial(_cancel_work, config.socket), lambda bundle: check_bundle(config, bundle, "supernode"))

    def client(where: str, _insecure: bool, _root: object, interceptors: Sequence[Any]) -> ClinicFleetClient:
        node_file = config.messenger_state / "node-id"
        carrier.client = ClinicFleetClient(f"https://{where}", interceptors, context, line, node_file)
        return carrier.client

    files = object_folder(config)
    flower, connection, heartbeat, tasks, stores = (
        importlib.import_module(f"flwr.{name}")
        for name in (
            "supernode.start_client_internal",
            "supernode.fleet_http_connection",
            "supercore.heartbeat",
            "supercore.corestate.in_memory_corestate",
            "supercore.object_store.object_store_factory",
        )
    )
    replaced: tuple[tuple[ModuleType, str, object], ...] = (
        (flower, "time", SimpleNamespace(sleep=carrier.idle)),
        (flower, "_pull_and_store_message", partial(carrier.pull, flower._pull_and_store_message)),
        (flower, "_push_messages", carrier.push),
        (flower, "pull_objects", received(files, quick_pulls(flower.pull_objects))),
        (stores, "InMemoryObjectStore", partial(FileObjectStore, files)),
        (connection, "FleetHttpClient", SimpleNamespace(from_server_address=client)),
        (connection, "make_simple_http_retry_invoker", line.invoker),
        (heartbeat, "exponential", lambda max_delay: exponential(max_delay=min(max_delay, MAX_RETRY_SECONDS))),
        *((module, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_SECONDS) for module in (connection, heartbeat, tasks)),
    )
    for module, name, part in replaced:
        setattr(module, name, part)


def arguments(config: ClinicConfig, secret: Path) -> list[str]:
    """Return the arguments of Flower's SuperNode; no secret is among them."""
    return [
        f"--superlink={address(config)}",
        f"--root-certificates={config.ca_certificate}",
        f"--auth-supernode-private-key={config.node_key}",
        f'--node-config=clinic="{config.name}"',
        "--isolation=process",
        f"--superexec-auth-secret-file={secret}",
        "--host=127.0.0.1",
        f"--port={config.file.messenger.port}",
    ]


def main(config: ClinicConfig) -> int:
    """Be the clinic's SuperNode until a signal ends this process; return 0 then.

    Raises:
        ServiceError: it cannot start, or the coordinator turns it away for good; to be tried again after a while.
    """
    secret = prepare(config)
    context = tls_context(config)
    try:
        config.node_key.open("rb").close()
    except FileNotFoundError:
        raise ServiceError(f"{config.node_key}: is missing; put the kit's own file back") from None
    except OSError:
        raise ServiceError(f"{config.node_key}: {_NOT_OURS}") from None
    adapt(config, context)
    from flwr.supercore.exit.exit_handler import trigger_exit_handlers
    from flwr.supernode.cli.flower_supernode import flower_supernode

    log_plainly()
    sys.argv = ["flower-supernode", *arguments(config, secret)]
    try:
        flower_supernode()
    except SystemExit as leaving:
        if not leaving.code:
            return 0
        raise ServiceError(f"{address(config)}: does not let this clinic in; the lines above say why") from None
    except RuntimeError:
        port = config.file.messenger.port
        raise ServiceError(f"127.0.0.1:{port}: taken; see what listens there, or change 'messenger: port'") from None
    # Flower has logged an answer that it cannot live with, and keeps its own threads going.
    trigger_exit_handlers(run_before_force_exit=False)
    raise ServiceError(f"{address(config)}: turns this clinic away; the line above says why")


def _cancel_work(socket: Path, run: int) -> None:
    from melfed.client.rpc.remote import cancel

    cancel(socket, run)
