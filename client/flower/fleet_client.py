"""The clinic's requests to SuperLink: with its certificate, repeated until they are answered, and back after a crash.

Loads Flower; import it late.
"""

import logging
import secrets
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_client import FleetHttpClient
from httpx import ConnectError, ConnectTimeout, HTTPError, HTTPStatusError, RemoteProtocolError, Response, codes

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import StorageError
from melfed.common.files import write_text
from melfed.common.messages import PROCESS_HEADER

HEARTBEAT_SECONDS = 10
"""The least that Flower's SuperLink takes; a clinic counts as gone after twice that."""

ASK_SECONDS = 5.0
MAX_RETRY_SECONDS = 5
MAX_SERVER_ERRORS = 100
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP states that pass: of a SuperLink that restarts, of nginx's limits, of a database that is locked."""

_log = logging.getLogger(__name__)


class Line:
    """The line to the coordinator: tells once that it is broken, and once that it works."""

    def __init__(self, where: str, audit: AuditLog) -> None:
        self.where, self.audit = where, audit
        self._lock = threading.Lock()
        self._working: bool | None = None
        self._since = time.monotonic()
        self._server_errors = 0

    def lost(self, error: Exception | None) -> None:
        """Note a failed request."""
        with self._lock:
            if self._working is not False:
                self._working, self._since = False, time.monotonic()
                self._tell(Event.CONNECTION_LOST, reason=said(error))

    def works(self) -> None:
        """Note an answered request."""
        with self._lock:
            self._server_errors = 0
            if not self._working:
                self._working = True
                self._tell(Event.CONNECTED, seconds=round(time.monotonic() - self._since, 1))

    def _tell(self, event: Event, **fields: str | float) -> None:
        try:
            self.audit.record(event, coordinator=self.where, **fields)
        except StorageError as error:
            _log.warning("%s", error)

    def hopeless(self, error: Exception) -> bool:
        """Whether a failed request is not to be repeated. Raises Flower's error where its run is over."""
        if not isinstance(error, HTTPStatusError):
            return False
        status = error.response.status_code
        if status == codes.FORBIDDEN and not refused_by_edge(error):
            raise RunNotRunningException
        if status != codes.INTERNAL_SERVER_ERROR:
            if status not in RETRIED:
                self.lost(error)
            return status not in RETRIED
        with self._lock:
            self._server_errors += 1
            return self._server_errors > MAX_SERVER_ERRORS

    def invoker(self) -> RetryInvoker:
        """Return what repeats requests until they are answered."""
        return RetryInvoker(
            lambda: exponential(0.5, max_delay=MAX_RETRY_SECONDS),
            HTTPError,
            max_tries=None,
            max_time=None,
            on_success=lambda _: self.works(),
            on_backoff=lambda state: self.lost(state.exception),
            should_giveup=self.hopeless,
        )


def said(error: Exception | None) -> str:
    """Return what an error of a request says, on one line, without the body of an answer."""
    if isinstance(error, HTTPStatusError) and error.response.status_code == codes.FORBIDDEN and refused_by_edge(error):
        return "HTTP 403: the coordinator does not let this clinic's certificate and key in, or has revoked them"
    return " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__


def refused_by_edge(error: HTTPStatusError) -> bool:
    """Whether an HTTP error comes from the proxy in front of SuperLink, which answers in its own words."""
    return FlowerError.from_json(error.response.text) is None


class NamedProcess:
    """Says in each request which process asks, so that the server notices when two have one key."""

    def __init__(self) -> None:
        self._headers = {PROCESS_HEADER: secrets.token_hex(8)}

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> Response:
        """Add the header."""
        add_headers(context.request, self._headers)
        return call_next(context)


class ClinicFleetClient(FleetHttpClient):
    """Flower's client, changed where a clinic needs it."""

    def __init__(
        self,
        url: str,
        interceptors: Sequence[ProtobufClientInterceptor],
        context: ssl.SSLContext,
        line: Line,
        node_file: Path,
    ) -> None:
        super().__init__(url, interceptors=[NamedProcess(), *interceptors], verify=context)
        self.line, self.node_file = line, node_file
        self._in_doubt = False

    def _unary_unary(self, **request: Any) -> Any:
        try:
            return super()._unary_unary(**request)
        except ValueError as error:  # a page of some gateway in between
            raise RemoteProtocolError(f"not SuperLink's answer: {error}") from None

    def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802 (Flower's name)
        """Come online; go offline first, where this clinic has been online before."""
        if known := self._known_node():
            self._leave(known)
        response = super().ActivateNode(request)
        try:
            write_text(self.node_file, str(response.node_id))
        except StorageError as error:
            _log.warning("%s", error)  # a return after a crash takes longer then
        return response

    def PullMessages(self, request: PullMessagesRequest) -> PullMessagesResponse:  # noqa: N802
        """Ask for a message. SuperLink hands each out once, so after a cut line one may be lost on its way."""
        try:
            response = super().PullMessages(request)
        except HTTPError as error:
            self._in_doubt |= not isinstance(error, ConnectError | ConnectTimeout)
            raise
        if self._in_doubt and not response.messages_list:
            self._leave(request.node.node_id)
            heartbeat = SendNodeHeartbeatRequest(node=request.node, heartbeat_interval=HEARTBEAT_SECONDS)
            super().SendNodeHeartbeat(heartbeat)
            self._in_doubt = False
        return response

    def _leave(self, node: int) -> None:
        """Go offline: the server sees by the time of the return that it must ask again whatever it had asked."""
        try:
            self.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except HTTPStatusError as error:
            # Else the clinic is offline already, or its number is another.
            if error.response.status_code in RETRIED:
                raise

    def SendNodeHeartbeat(  # noqa: N802
        self, request: SendNodeHeartbeatRequest
    ) -> SendNodeHeartbeatResponse:
        """Say that the clinic is there. Flower's thread goes on after a transport error alone."""
        try:
            response = super().SendNodeHeartbeat(request)
        except HTTPError as error:
            self.line.lost(error)
            raise RemoteProtocolError(said(error)) from None
        if not response.success:
            raise RemoteProtocolError("SuperLink does not know this clinic")
        self.line.works()
        return response

    def ask_run(self, run: int, node: int) -> str | None:
        """Ask whether one of Flower's runs goes on: None; else what SuperLink says of its end. Raises HTTPError."""
        request = GetRunRequest(node=Node(node_id=node), run_id=run)
        try:
            self._unary_unary(
                path="/v1/fleet/get-run",
                rpc_method="/flwr.proto.Fleet/GetRun",
                request=request,
                response_type=GetRunResponse,
                timeout=ASK_SECONDS,
            )
        except HTTPStatusError as error:
            answer = FlowerError.from_json(error.response.text)
            if error.response.status_code != codes.FORBIDDEN or answer is None:
                raise
            return (answer.public_details or "").lower()
        return None

    def _known_node(self) -> int | None:
        try:
            return int(self.node_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None
