"""The loopback Control API of Flower's SuperLink: which clinics may connect and are there, and which runs there are."""

import base64
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from melfed.common.errors import ServiceError
from melfed.common.flower_pins import check_flower
from melfed.server.clinics.certificates import key_header
from melfed.server.clinics.registry import ClinicRecord
from melfed.server.config import ServerConfig
from melfed.server.flower.superlink import become_quiet, read_file

if TYPE_CHECKING:
    from flwr.proto.control_pb2 import ListRunsRequest

SECONDS = 20.0
"""Longest that one call may take."""

RUNS = 200
"""Flower's last runs, which are looked at."""

TaskStatus = Literal["pending", "starting", "running", "completed", "failed", "stopped"]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class FlowerNode:
    """A clinic's SuperNode as the SuperLink knows it.

    Attributes:
        node_id: Flower's number for it.
        name: the clinic's.
        public_key: as registered, PEM.
        online: it has said so within the last minute.
        since: when it last came online or went offline; None where it never was.
    """

    node_id: int
    name: str
    public_key: bytes
    online: bool
    since: datetime | None


@dataclass(frozen=True)
class FlowerRun:
    """One of Flower's runs; a run of melfed may need several, after a crash."""

    run_id: int
    run: str
    status: TaskStatus
    details: str

    @property
    def active(self) -> bool:
        """Whether it may still do something."""
        return self.status in {"pending", "starting", "running"}


class _UnknownError(ServiceError):
    """SuperLink knows of no such thing."""


class Control:
    """Asks the SuperLink on this machine; close it, or use it as a context manager."""

    def __init__(self, config: ServerConfig, seconds: float = SECONDS) -> None:
        become_quiet(config)
        check_flower("control")
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self.config = config
        # A line a call, several times a second.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=read_file(config.ca_certificate).decode("ascii"))
        self._client = ControlHttpClient(
            f"https://{config.superlink}",
            interceptors=[RuntimeVersionHttpInterceptor(component_name="melfed-server")],
            verify=context,
            timeout=seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def register(self, record: ClinicRecord) -> int:
        """Let a clinic's key in; return its node id. Raises ServiceError."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        request = RegisterNodeRequest(public_key=public_key(record), name=record.name)
        return int(self._call("register a key", lambda: self._client.RegisterNode(request)).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a clinic's key out. Raises ServiceError."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        request = UnregisterNodeRequest(node_id=node_id)
        self._call("unregister a key", lambda: self._client.UnregisterNode(request))

    def nodes(self) -> tuple[FlowerNode, ...]:
        """Return all clinics that may connect. Raises ServiceError."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = self._call("list the clinics", lambda: self._client.ListNodes(ListNodesRequest()))
        return tuple(
            FlowerNode(info.node_id, info.name, info.public_key, info.status == "online", _since(info))
            for info in answer.nodes_info
            if info.status != "unregistered"
        )

    def start_run(self, run: str, bundle: bytes) -> int:
        """Start a ServerApp for a run folder, by its name; return Flower's number for it. Raises ServiceError."""
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab
        from flwr.proto.transport_pb2 import Scalar

        from melfed.server.flower.app_bundle import bundle_digest

        fab = Fab(hash_str=bundle_digest(bundle), content=bundle)
        request = StartRunRequest(fab=fab, override_config={"run": Scalar(string=run)})
        answer = self._call("start a run", lambda: self._client.StartRun(request))
        if not answer.HasField("run_id"):
            raise ServiceError(f"SuperLink at {self.config.superlink}: does not start run {run}; see its log")
        return int(answer.run_id)

    def stop_run(self, run_id: int) -> None:
        """Stop one of Flower's runs; one that has finished already is left as it is. Raises ServiceError."""
        from flwr.proto.control_pb2 import StopRunRequest

        try:
            self._call("stop a run", lambda: self._client.StopRun(StopRunRequest(run_id=run_id)))
        except ServiceError:
            if any(run.run_id == run_id and run.active for run in self.runs()):
                raise

    def run(self, run_id: int) -> FlowerRun | None:
        """Return one of Flower's runs; None where it knows no such run. Raises ServiceError."""
        from flwr.proto.control_pb2 import ListRunsRequest

        try:
            return self._runs(ListRunsRequest(run_id=run_id))[0]
        except _UnknownError:
            return None

    def runs(self) -> tuple[FlowerRun, ...]:
        """Return Flower's last runs, the newest first. Flower tidies up all of them for that. Raises ServiceError."""
        from flwr.proto.control_pb2 import ListRunsRequest

        return self._runs(ListRunsRequest(limit=RUNS))

    def _runs(self, request: "ListRunsRequest") -> tuple[FlowerRun, ...]:
        answer = self._call("list runs", lambda: self._client.ListRuns(request))
        rows = sorted(answer.run_dict.values(), key=lambda row: str(row.pending_at), reverse=True)
        return tuple(
            FlowerRun(
                row.run_id,
                row.override_config["run"].string if "run" in row.override_config else "",
                row.status.sub_status if row.status.status == "finished" else row.status.status,
                row.status.details,
            )
            for row in rows
        )

    def _call(self, what: str, ask: Callable[[], _Answer]) -> _Answer:
        import httpx

        try:
            return ask()
        except httpx.HTTPStatusError as error:
            code, reason = error.response.status_code, " ".join(error.response.text.split())[:300]
            kind = _UnknownError if code == httpx.codes.NOT_FOUND else ServiceError
            raise kind(f"SuperLink at {self.config.superlink}: refuses to {what}: {code} {reason}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(
                f"SuperLink at {self.config.superlink}: cannot {what}: {error or type(error).__name__}; "
                "see that melfed-server start is running"
            ) from None


def public_key(record: ClinicRecord) -> bytes:
    """Return a clinic's key as Flower knows it, PEM."""
    return base64.b64decode(key_header(record.node_key))


def _since(info: object) -> datetime | None:
    times = [getattr(info, name, "") for name in ("last_activated_at", "last_deactivated_at")]
    known = [datetime.fromisoformat(time) for time in times if time]
    until = getattr(info, "online_until", 0.0)
    if getattr(info, "status", "") == "offline" and until:
        known.append(datetime.fromtimestamp(until, UTC))
    return max((time if time.tzinfo else time.replace(tzinfo=UTC) for time in known), default=None)
