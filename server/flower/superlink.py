"""Flower's SuperLink, its superexec, and the processes of ServerApps: how the daemon starts them, and what they run.

All of it stays on loopback. SuperLink's control interface knows no passwords, so whoever has an account on this machine
and reads the CA certificate can submit an app: the superexec therefore starts melfed's own bundle and nothing else, as
the clinics do.
"""

import functools
import logging as log
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from melfed.common.audit.library_logs import log_plainly
from melfed.common.errors import RunError, ServerConfigError
from melfed.common.flower_pins import check_flower
from melfed.common.process.child import ALLOCATOR
from melfed.common.process.launcher import VARIABLE
from melfed.server.config import ServerConfig
from melfed.server.flower.app_bundle import bundle_digest
from melfed.server.flower.key_holders import KeyHolders, Watching, watch
from melfed.server.runs.state import read_state

if TYPE_CHECKING:
    from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
    from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Receive, Scope, Send

POLL_SECONDS = 0.5
"""How often the superexec asks whether a ServerApp is to be started."""

PRAGMAS = {
    # How long a write waits for another one, ms. Flower's own 5 s are too few where a large model's arrays are written.
    "busy_timeout": "120000",
    # A connection's memory, KiB. Flower's own 64 MB, in each of up to thirty connections, is more than all arrays.
    "cache_size": "-8000",
    # Each connection would map the same file; it is read no faster.
    "mmap_size": "0",
    # Pages in the journal before they are moved into the database: 64 MB. At Flower's 4 MB each piece of an array would
    # be written twice, and waited for on the disk.
    "wal_autocheckpoint": "16384",
    # What is left of the journal when a large model is through, bytes.
    "journal_size_limit": "67108864",
}
"""Settings of SuperLink's database that differ from Flower's."""

LOOK_SECONDS = 0.5
"""How often SuperLink looks for ServerApps whose heartbeat has stopped, which it does for every request by itself."""

CONTROL_PATH = "/v1/control/"
CONTROL_LAYERS = frozenset(
    f"Control{name}Middleware" for name in ("SensitiveResponse", "Authentication", "License", "EventLog")
)
UNUSED_LAYERS = frozenset({"RuntimeTracingMiddleware", "FleetEventLogMiddleware"})

CONFIG_VARIABLE = "MELFED_SERVER"
GRACE_SECONDS = 5
RECONNECT_SECONDS = 2


def quiet_environment(config: ServerConfig, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of everything that runs Flower here.

    Nothing is reported home, no dependency is installed at run time, and no setting or proxy of whoever started the
    daemon has a part in it: all connections are on loopback.
    """
    environment = {
        name: value
        for name, value in (os.environ if inherited is None else inherited).items()
        if not name.startswith("FLWR_") and not name.lower().endswith("_proxy")
    }
    return environment | {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(config.state / "flower"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(POLL_SECONDS),
        CONFIG_VARIABLE: str(config.path),
        **ALLOCATOR,
    }


def become_quiet(config: ServerConfig) -> None:
    """Give this process that environment, before it imports Flower."""
    environment = quiet_environment(config)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


def command(config: ServerConfig, name: str) -> tuple[str, ...]:
    """Return the command line of one of `melfed-server`'s own child processes, of this installation.

    -P keeps the current folder out of the search for modules.
    """
    return (sys.executable, "-P", "-m", "melfed.server.cli.main", name, "--config", str(config.path))


def superlink_arguments(config: ServerConfig) -> list[str]:
    """Return the arguments of Flower's SuperLink."""
    return [
        "--host=127.0.0.1",
        f"--port={config.file.superlink_port}",
        f"--ssl-ca-certfile={config.ca_certificate}",
        f"--ssl-certfile={config.certificate}",
        f"--ssl-keyfile={config.certificate_key}",
        "--enable-supernode-auth",
        "--isolation=process",
        f"--superexec-auth-secret-file={config.superexec_secret}",
        f"--database={config.state / 'flower.db'}",
        "--disable-runtime-dependency-installation",
    ]


def run_superlink(config: ServerConfig) -> None:
    """Be the SuperLink until this process is ended."""
    become_quiet(config)
    check_flower("SuperLink")
    from importlib import import_module

    import uvicorn
    from flwr.supercore import sql_mixin
    from flwr.superlink.main import create_app

    # Its package holds a function of the module's name.
    flower = import_module("flwr.superlink.cli.flower_superlink")
    settings = vars(sql_mixin)
    settings["SQLITE_PRAGMAS"] = tuple((dict(settings["SQLITE_PRAGMAS"]) | PRAGMAS).items())
    _let_keys_come_back()
    _take_the_short_way(config, watch(config))
    _keep_objects_in_files()
    _write_seldom()
    _tell_of_stops(config)
    _take_replies_alone()
    log_plainly(log.WARNING)  # below that are lines for every look of the daemon
    sys.argv = ["flower-superlink", *superlink_arguments(config)]
    flags = flower._parse_superlink_lifespan_config()
    uvicorn.run(
        create_app(flags, flower.SuperLinkLifespan),
        host=flags.host,
        port=flags.port,
        ssl_certfile=flags.ssl_certfile,
        ssl_keyfile=flags.ssl_keyfile,
        log_config=None,
        access_log=False,  # several lines a second and clinic
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _let_keys_come_back() -> None:
    """Have SuperLink register a key again that was unregistered: a clinic that is let in again keeps its kit."""
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    create: Callable[..., int] = SqlLinkState.create_node

    @functools.wraps(create)
    def create_node(
        self: SqlLinkState, owner_aid: str, owner_name: str, public_key: bytes, *rest: object, **more: object
    ) -> int:
        gone = "UPDATE node SET public_key = NULL WHERE public_key = :key AND status = 'unregistered'"
        self.query(gone, {"key": public_key})
        return create(self, owner_aid, owner_name, public_key, *rest, **more)

    SqlLinkState.create_node = create_node  # type: ignore[method-assign]


def _keep_objects_in_files() -> None:
    from flwr.supercore.object_store import object_store_factory
    from flwr.superlink.servicer.fleet import fleet_handlers

    from melfed.server.flower.object_files import FileObjectStore
    from melfed.server.flower.object_requests import pointing, staging

    vars(object_store_factory)["SqlObjectStore"] = FileObjectStore
    fleet_handlers.pull_object = pointing(fleet_handlers.pull_object)
    fleet_handlers.push_object = staging(fleet_handlers.push_object)


def _write_seldom() -> None:
    """Have SuperLink write to its database for what matters: one write waits for another, and each for the disk.

    Every piece of an array, on its way in or out, would add its size to a sum that nobody looks at, and look for dead
    ServerApps, which would be writes as well.
    """
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    look: Callable[[SqlLinkState], None] = SqlLinkState._cleanup_expired_task_tokens
    last: dict[SqlLinkState, float] = {}

    def look_seldom(self: SqlLinkState) -> None:
        now = time.monotonic()
        if now - last.get(self, -LOOK_SECONDS) >= LOOK_SECONDS:
            last[self] = now
            look(self)

    replaced = {"_cleanup_expired_task_tokens": look_seldom, "store_traffic": lambda *_, **__: None}
    for name, part in replaced.items():
        setattr(SqlLinkState, name, part)


def is_given_up(runs: Path, flower_run: int) -> bool:
    """Tell whether nobody will go on with what one of Flower's runs was for.

    A Flower run whose ServerApp has died is over as well; but another goes on with its work.

    Args:
        runs: the folder of the runs' folders.
        flower_run: Flower's id.
    """
    for path in runs.iterdir() if runs.is_dir() else ():
        try:
            state = read_state(path)
        except RunError as error:
            log.warning("%s", error)
            continue
        if state is not None and state.flower_run == flower_run:
            return not state.wanted
    return False


def _tell_of_stops(config: ServerConfig) -> None:
    """Have SuperLink tell a clinic that asks after a run which is over whether it was stopped.

    The clinic then ends the training at once, which otherwise goes on for a while: a failed run is soon resumed.
    """
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.superlink.servicer.fleet import fleet_handlers

    ask: Callable[..., GetRunResponse] = fleet_handlers.get_run

    @functools.wraps(ask)
    def get_run(request: "GetRunRequest", state: object) -> "GetRunResponse":
        try:
            return ask(request=request, state=state)
        except FlowerError as error:
            if error.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED and is_given_up(config.runs, request.run_id):
                error.public_details = "stopped"
            raise

    fleet_handlers.get_run = get_run


def _take_replies_alone() -> None:
    """Have SuperLink take nothing from a clinic but its own replies to what it was asked.

    Flower stores a message that is no reply as one of the coordinator's where the message itself says that it is from
    there: any clinic could give the others orders, in a database that keeps them.
    """
    from flwr.superlink.servicer.fleet import fleet_handlers
    from starlette.exceptions import HTTPException

    push: Callable[..., PushMessagesResponse] = fleet_handlers.push_messages

    @functools.wraps(push)
    def push_messages(request: "PushMessagesRequest", state: object) -> "PushMessagesResponse":
        for message in request.messages_list:
            # The request's own node is the one whose key has signed it.
            if not message.metadata.reply_to_message_id or message.metadata.src_node_id != request.node.node_id:
                log.warning("node %s sends what is no reply of its own; refused", request.node.node_id)
                raise HTTPException(403)
        return push(request=request, state=state)

    fleet_handlers.push_messages = push_messages


class OnlyFor:
    """A layer of SuperLink's HTTP application that only requests below a path go through."""

    def __init__(self, app: "ASGIApp", layer: "Middleware", path: str) -> None:
        self.app, self.path = app, path
        self.layer = layer.cls(app, *layer.args, **layer.kwargs)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on."""
        ours = str(scope.get("path", "")).startswith(self.path)
        await (self.layer if ours else self.app)(scope, receive, send)


def short_way(layers: "list[Middleware]") -> "list[Middleware]":
    """Return SuperLink's layers, in their order, so that messages go through those alone that do something with them.

    Each layer costs a request about as much as all that SuperLink does to answer it. Four have to do with the control
    interface alone; two write to event logs and traces, for which nothing is configured here.
    """
    from starlette.middleware import Middleware

    kept = [layer for layer in layers if getattr(layer.cls, "__name__", "") not in UNUSED_LAYERS]
    return [
        Middleware(OnlyFor, layer=layer, path=CONTROL_PATH)
        if getattr(layer.cls, "__name__", "") in CONTROL_LAYERS
        else layer
        for layer in kept
    ]


def _take_the_short_way(config: ServerConfig, holders: KeyHolders) -> None:
    from importlib import import_module

    from starlette.middleware import Middleware

    from melfed.server.flower.object_requests import PULL_PATH, PUSH_PATH, ReceivedByEdge, SentByEdge

    flower = vars(import_module("flwr.superlink.main"))
    layers: Callable[[], list[Middleware]] = flower["_get_middleware"]
    sent = Middleware(OnlyFor, layer=Middleware(SentByEdge), path=PULL_PATH)
    bodies = Middleware(ReceivedByEdge, folder=config.state / "nginx" / "client_body")
    received = Middleware(OnlyFor, layer=bodies, path=PUSH_PATH)
    # Last: what it sees is signed by the key that it names.
    watching = Middleware(Watching, holders=holders)
    flower["_get_middleware"] = lambda: [sent, received, *short_way(layers()), watching]


class ServerApps:
    """Starts a process a ServerApp, for Flower's superexec; its methods are those of Flower's `Executor`.

    The token that lets a process act for its run goes through its standard input, not on its command line. The
    processes outlive a superexec that crashes, but not the daemon above it.
    """

    def __init__(self, config: ServerConfig, bundle: str) -> None:
        self.config, self.bundle = config, bundle
        self.children: list[subprocess.Popen[bytes]] = []
        self.daemon = os.getppid()

    def get_eligible_capacity(self, *_: object, **__: object) -> "tuple[set[TaskType], set[str]]":
        """Return what may be started: ServerApps, of any bundle (others fail in `launch`)."""
        from flwr.supercore.constant import TaskType

        return {TaskType.SERVER_APP}, set()

    def wait_for_capacity(self, *_: object, **__: object) -> None:
        """Return at once."""

    def launch(self, spec: "ExecutionSpec") -> "LaunchResult":
        """Start a ServerApp, where it is of melfed's bundle."""
        from flwr.supercore.superexec.executor.types import LaunchResult

        if spec.fab_hash != self.bundle:
            return LaunchResult.failed(f"bundle {spec.fab_hash} is not melfed's, {self.bundle}")
        child = subprocess.Popen(  # noqa: S603 (our own command)
            [*command(self.config, "serverapp"), "--daemon", str(self.daemon)],
            stdin=subprocess.PIPE,
            env=_outliving_environment(),
            start_new_session=True,
        )
        assert child.stdin is not None  # noqa: S101
        child.stdin.write(spec.token.encode() + b"\n")
        child.stdin.close()
        self.children.append(child)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Let go of processes that have ended."""
        self.children = [child for child in self.children if child.poll() is None]

    def close(self) -> None:
        """Leave ServerApps running."""


def _outliving_environment() -> dict[str, str]:
    """Return an environment in which a process belongs to the daemon's supervisor, but not to one of its children."""
    marks = os.environ.get(VARIABLE, "").split("/")
    marks[-1] = marks[-1].partition(".")[0] + ".serverapp"
    return {**os.environ, VARIABLE: "/".join(marks)}


def run_superexec(config: ServerConfig) -> None:
    """Be the superexec until this process is ended."""
    become_quiet(config)
    check_flower("superexec")
    from importlib import import_module

    _reconnect_soon()
    flower = import_module("flwr.supercore.superexec.run_superexec")
    executor = ServerApps(config, bundle_digest(read_file(config.bundle)))
    vars(flower)["get_executor"] = lambda *_, **__: executor
    log_plainly()
    flower.run_superexec(
        runtime_api_address=config.superlink,
        insecure=False,
        root_certificates_path=str(config.ca_certificate),
        superexec_auth_secret=read_file(config.superexec_secret),
        runtime_dependency_install=False,
    )


def run_serverapp(config: ServerConfig, token: str, daemon: int) -> None:
    """Be the process of one ServerApp until its run ends.

    Args:
        config: the coordinator's.
        token: lets this process act for its run.
        daemon: process id; when it ends, so does this one.
    """
    become_quiet(config)
    check_flower("ServerApp")
    from queue import Queue

    from flwr.app.message.arraychunk import ArrayChunk
    from flwr.superlink.runtime import run_serverapp as flower

    _reconnect_soon()
    # A piece of an array does not change: it is hashed once, and not for each clinic that is sent it.
    ArrayChunk.is_dirty = False  # type: ignore[assignment]
    log_plainly()
    # Nobody writes to the queue: logs stay in a file, and out of Flower's database.
    flower(
        runtime_api_address=config.superlink,
        log_queue=Queue(),
        token=token,
        insecure=False,
        certificates=read_file(config.ca_certificate),
        parent_pid=daemon,
        runtime_dependency_install=False,
    )


def _reconnect_soon() -> None:
    """Have Flower try every few seconds to reach a SuperLink that was restarted, not every minute."""
    from flwr.supercore.retry import http_retry

    vars(http_retry)["MAX_RETRY_DELAY"] = RECONNECT_SECONDS


def read_file(path: Path) -> bytes:
    """Return the content of one of the kit's files. Raises ServerConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServerConfigError(f"{path}: cannot be read: {reason}; put the kit's file back") from None
