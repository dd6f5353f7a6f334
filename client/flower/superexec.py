"""Takes messages from the SuperNode and runs the ClientApp on each, in a process forked for it.

It is Flower's superexec with an executor of our own. Flower starts an interpreter a message, which takes a second or
two; a fork of a process that has imported everything takes some hundredths. Only app bundles that the clinic has listed
by their SHA-256 are run.
"""

import ctypes
import gc
import importlib
import logging
import os
import signal
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from melfed.client.config.clinic import ClinicConfig
from melfed.client.flower.compatibility import check_bundle, prepare, quick_pulls
from melfed.common.audit.library_logs import log_plainly
from melfed.common.errors import ServiceError
from melfed.common.flower_pins import check_flower
from melfed.common.process.object_folder import ObjectFolder

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.supercore.constant import TaskType
    from flwr.supercore.fab import Fab
    from flwr.supercore.retry import RetryInvoker
    from flwr.supercore.run import Run
    from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

OWN_APP = "melfed.client.flower.deployed:app"
"""The ClientApp of melfed's own bundle, installed here: nothing of the bundle itself is run."""

SOCKET_VARIABLE = "MELFED_SOCKET"
POLL_SECONDS, IDLE_SECONDS, LOOK_SECONDS = 0.05, 1.0, 0.02
"""Least and longest between two questions to the SuperNode for a message, and how often its folder is looked at: there
are files as soon as there is a message."""

RETRY_SECONDS = 0.5
MOST_PROCESSES = 8
"""Processes at a time. The SuperNode hands out one message; others may be left over from runs that are over."""

END_SECONDS = 1.5
HEARTBEAT_SECONDS = 10
"""Of the ClientApp's processes; as in `melfed.client.flower.fleet_client`, since the SuperNode counts with the same."""

NOT_RUN = 70
SERVER_ERROR = 500
_PR_SET_PDEATHSIG = 1

LoadClientApp = Callable[[str, str, str], "ClientApp"]
TaskInput = tuple["Message", "Context", "Run", "Fab"]

_log = logging.getLogger(__name__)


class Forks:
    """Forks a process a message, for Flower's superexec; its methods are those of Flower's `Executor`."""

    def __init__(self, config: ClinicConfig) -> None:
        self.config, self.files = config, ObjectFolder(config.messenger_state / "objects")
        self.children: dict[int, ExecutionSpec] = {}
        self._stamp = 0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def get_eligible_capacity(self, *_: object, **__: object) -> "tuple[set[TaskType], set[str]]":
        """Return what may be started: ClientApps, while there are not too many of them."""
        from flwr.supercore.constant import TaskType

        return ({TaskType.CLIENT_APP} if len(self.children) < MOST_PROCESSES else set()), set()

    def wait_for_capacity(self, *_: object, **__: object) -> None:
        """Return at once."""

    def idle(self, seconds: float) -> None:
        """Wait until the SuperNode may have a message: its folder has changed since this looked last."""
        end = time.monotonic() + IDLE_SECONDS
        time.sleep(seconds)
        while self.files.stamp() == self._stamp and time.monotonic() < end:
            self.reconcile()
            time.sleep(LOOK_SECONDS)
        self._stamp = self.files.stamp()

    def launch(self, spec: "ExecutionSpec") -> "LaunchResult":
        """Start a process for a message."""
        from flwr.supercore.superexec.executor.types import LaunchResult

        parent, began = os.getpid(), time.monotonic()
        try:
            child = os.fork()
        except OSError as error:
            return LaunchResult.failed(f"no process can be started: {error.strerror}")
        if child == 0:
            self._be_child(spec, parent, began)
        self.children[child] = spec
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Let go of processes that have ended, and say so for those that could not."""
        for child, spec in list(self.children.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del self.children[child]
                if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == NOT_RUN:
                    _log.warning("ClientApp process %d ended: %s", child, _how(status))
                    _fail_task(spec, _how(status))

    def close(self) -> None:
        """End all processes; each may still say that it was stopped."""
        for child in self.children:
            os.kill(child, signal.SIGTERM)
        end = time.monotonic() + END_SECONDS
        while self.children and time.monotonic() < end:
            self.reconcile()
            time.sleep(0.02)
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.children.clear()

    def _be_child(self, spec: "ExecutionSpec", parent: int, began: float) -> NoReturn:
        code = NOT_RUN
        try:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                self._run_clientapp(spec, began)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        except Exception:  # noqa: BLE001 (nothing above would log it)
            _log.exception("ClientApp process failed")
        finally:
            # Nothing that the parent has registered for its own end may run here.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _run_clientapp(self, spec: "ExecutionSpec", began: float) -> None:
        from flwr.app.message.arraychunk import ArrayChunk
        from flwr.supercore.exit.exit_handler import registered_exit_handlers

        from melfed.client.flower.object_files import read

        # A piece of an array does not change: it is hashed once.
        ArrayChunk.is_dirty = False  # type: ignore[assignment]

        registered_exit_handlers.clear()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        flower: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")
        bundles = Bundles(self.config, flower.install_from_fab, flower.get_load_client_app_fn)
        flower.install_from_fab = bundles.install
        flower.get_load_client_app_fn = bundles.loader
        flower.pull_and_inflate_object_from_tree = quick_pulls(flower.pull_and_inflate_object_from_tree)
        files = self.files
        flower.make_pull_object_fn_protobuf = read(files, flower.make_pull_object_fn_protobuf)
        clock = Clock(began)
        flower.pull_task_input = clock.input(_limited(flower.pull_task_input))
        flower.push_message = clock.output(_handed(files, flower.push_message))
        flower.run_clientapp(
            runtime_api_address=spec.runtime_api_address,
            token=spec.token,
            insecure=True,
            runtime_dependency_install=False,
        )


class Bundles:
    """Stands between Flower and the app bundles that the coordinator sends.

    Args:
        config: the clinic's, with its list of bundles.
        install: Flower's function that unpacks a bundle.
        loader: Flower's function that finds the ClientApp of an unpacked one.
    """

    def __init__(
        self, config: ClinicConfig, install: Callable[..., object], loader: "Callable[..., LoadClientApp]"
    ) -> None:
        self.config, self._install, self._loader = config, install, loader
        self._own = False

    def install(self, bundle: bytes, **settings: Any) -> None:
        """Unpack a bundle that the clinic has listed; melfed's own is installed already. Raises DeclinedError."""
        check_bundle(self.config, bundle, "messenger")
        self._own = clientapp_of(bundle) == OWN_APP
        if not self._own:
            self._install(bundle, **settings)

    def loader(self, **settings: Any) -> "LoadClientApp":
        """Return what loads the ClientApp of the bundle."""
        return (lambda *_: deployed_app()) if self._own else self._loader(**settings)


def clientapp_of(bundle: bytes) -> str:
    """Return the ClientApp that a bundle names, `module:attribute`."""
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    return str(project["tool"]["flwr"]["app"]["components"]["clientapp"])


def deployed_app() -> "ClientApp":
    """Return melfed's own ClientApp."""
    from melfed.client.flower.deployed import app

    return app


class Clock:
    """Notes when the steps of one ClientApp process begin and end, and logs that once its reply is handed over.

    Args:
        began: when the process was asked for, `time.monotonic`.
    """

    def __init__(self, began: float) -> None:
        self._last, self._steps = began, list[str]()

    def input(self, pull: "Callable[[Any], TaskInput]") -> "Callable[[Any], TaskInput]":
        """Return Flower's function that fetches the message; timed."""

        def timed(client: Any) -> "TaskInput":
            self._note("start")
            content = pull(client)
            self._note("input")
            return content

        return timed

    def output(self, push: "Callable[[Any, Message, Context], None]") -> "Callable[[Any, Message, Context], None]":
        """Return Flower's function that hands over the reply; timed, with the line in the log."""

        def timed(client: Any, reply: "Message", context: "Context") -> None:
            self._note("work")
            about = reply.metadata
            push(client, reply, context)
            self._note("output")
            where = f"run={about.run_id} round={about.group_id} kind={about.message_type}"
            _log.info("timing messenger %s %s", where, " ".join(self._steps))

        return timed

    def _note(self, step: str) -> None:
        now = time.monotonic()
        self._steps.append(f"{step}={round(1000 * (now - self._last))}")
        self._last = now


def _limited(pull: "Callable[[Any], TaskInput]") -> "Callable[[Any], TaskInput]":
    """Return Flower's function that fetches the message, and end this process when the message expires."""

    def pull_and_limit(client: Any) -> "TaskInput":
        content = pull(client)
        metadata = content[0].metadata
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(metadata.created_at + metadata.ttl - time.time(), 1.0))
        return content

    return pull_and_limit


def _handed(
    files: ObjectFolder, push: "Callable[[Any, Message, Context], None]"
) -> "Callable[[Any, Message, Context], None]":
    """Return Flower's function that hands over the reply, with the reply's objects left in files before."""
    from melfed.client.flower.object_files import hand

    def push_message(client: Any, reply: "Message", context: "Context") -> None:
        hand(files, reply)
        push(client, reply, context)

    return push_message


def _how(status: int) -> str:
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"


def _fail_task(spec: "ExecutionSpec", reason: str) -> None:
    """Tell the SuperNode that a process is gone; it would notice by itself, but later."""
    from flwr.common.constant import SubStatus
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient
    from httpx import HTTPError

    interceptors: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="melfed"),
        RuntimeTokenHttpInterceptor(spec.token),
    ]
    with RuntimeHttpClient(f"http://{spec.runtime_api_address}", interceptors=interceptors, timeout=2.0) as client:
        try:
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=reason))
        except HTTPError as error:
            _log.info("SuperNode was not told: %s", type(error).__name__)


def _patience() -> "RetryInvoker":
    """Return what asks a SuperNode again that is being restarted."""
    from flwr.supercore.retry import RetryInvoker, constant
    from httpx import HTTPError, HTTPStatusError

    return RetryInvoker(
        lambda: constant(RETRY_SECONDS),
        HTTPError,
        max_tries=None,
        max_time=None,
        jitter=None,
        should_giveup=lambda error: isinstance(error, HTTPStatusError) and error.response.status_code < SERVER_ERROR,
    )


def load() -> None:
    """Import what a message's process uses: what is there before it is forked, no message waits for."""
    for name in (
        "flwr.supercore.superexec.run_superexec",
        "flwr.supernode.runtime.run_clientapp",
        "melfed.client.flower.object_files",
    ):
        importlib.import_module(name)
    import httpx

    deployed_app()
    httpx.Client().close()  # what it stands on is imported by the first of them


def main(config: ClinicConfig) -> int:
    """Be the clinic's messenger until a signal ends this process; return 0 then.

    Raises:
        ServiceError: the SuperNode turns it away, or Flower is of another version.
    """
    secret = prepare(config)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # the SuperNode is on this machine
    os.environ |= {
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(POLL_SECONDS),
        SOCKET_VARIABLE: str(config.socket),
        # A library's threads would be lost in the forks.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    check_flower("messenger")
    load()
    from httpx import HTTPStatusError

    # The package holds a function of the module's name.
    flower: Any = importlib.import_module("flwr.supercore.superexec.run_superexec")
    heartbeat: Any = importlib.import_module("flwr.supercore.heartbeat")
    log_plainly()
    executor = Forks(config)
    heartbeat.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_SECONDS
    flower.get_executor = lambda *_, **__: executor
    flower.make_simple_http_retry_invoker = _patience
    flower.time = SimpleNamespace(sleep=executor.idle)
    gc.collect()
    gc.freeze()  # the forks share these pages
    address = f"127.0.0.1:{config.file.messenger.port}"
    try:
        flower.run_superexec(
            runtime_api_address=address,
            insecure=True,
            superexec_auth_secret=secret.read_bytes(),
            runtime_dependency_install=False,
        )
    except SystemExit as leaving:
        if leaving.code:
            raise ServiceError(f"{address}: the messenger cannot go on; the lines above say why") from None
    except HTTPStatusError as error:
        status = error.response.status_code
        raise ServiceError(f"{address}: SuperNode answers {status}; remove {secret} and start both again") from None
    return 0
