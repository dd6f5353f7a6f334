"""The clinic's requests to SuperLink: what is repeated, what is told, and how a clinic comes back."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

FORBIDDEN_BY_FLOWER = json.dumps({"code": 2007, "detail": "The current run status does not allow this."})


def refusal(status: int, body: str = "") -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://127.0.0.1/v1/fleet/get-run")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, text=body))


class Audit:
    def __init__(self) -> None:
        self.events: list[int] = []

    def record(self, event: Any, **_: Any) -> None:
        self.events.append(event.id)


def test_a_broken_line_is_told_once_and_tried_until_it_is_back() -> None:
    from melfed.client.flower.fleet_client import Line

    audit = Audit()
    line = Line("there", audit)  # type: ignore[arg-type]
    invoker = line.invoker()
    invoker.wait_function = lambda _: None
    troubles: list[Exception] = [
        httpx.ConnectError("refused"),
        httpx.ReadError("[SSL: UNEXPECTED_EOF] EOF occurred"),
        *(refusal(status) for status in (429, 500, 502, 503, 504)),
    ]

    def call() -> str:
        if troubles:
            raise troubles.pop(0)
        return "answer"

    assert invoker.invoke(call) == "answer"
    assert invoker.invoke(call) == "answer"
    assert audit.events == [1016, 1017]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_a_refusal_is_told_and_not_tried_again(status: int) -> None:
    from melfed.client.flower.fleet_client import Line

    calls, audit = [], Audit()

    def call() -> None:
        calls.append(1)
        raise refusal(status, "<html>nginx</html>")

    with pytest.raises(httpx.HTTPStatusError):
        Line("there", audit).invoker().invoke(call)  # type: ignore[arg-type]
    assert len(calls) == 1
    assert audit.events == [1016]


def test_a_run_that_is_over_is_flowers_own_error() -> None:
    from flwr.supercore.run import RunNotRunningException

    from melfed.client.flower.fleet_client import Line

    with pytest.raises(RunNotRunningException):
        Line("there", Audit()).hopeless(refusal(403, FORBIDDEN_BY_FLOWER))  # type: ignore[arg-type]


def test_a_server_that_fails_for_ever_is_left() -> None:
    from melfed.client.flower.fleet_client import MAX_SERVER_ERRORS, Line

    line = Line("there", Audit())  # type: ignore[arg-type]
    assert not any(line.hopeless(refusal(500)) for _ in range(MAX_SERVER_ERRORS))
    assert line.hopeless(refusal(500))
    assert not any(line.hopeless(refusal(503)) for _ in range(10 * MAX_SERVER_ERRORS))


class Far:
    """What SuperLink answers, by path; an exception is raised, and a list is emptied from its front."""

    def __init__(self, **responses: Any) -> None:
        self.responses, self.calls = responses, []  # type: ignore[var-annotated]

    def answer(self, *, path: str, request: Any, **_: Any) -> Any:
        name = path.rsplit("/", 1)[1].replace("-", "_")
        self.calls.append(name)
        response = self.responses[name]
        response = response.pop(0) if isinstance(response, list) else response
        if isinstance(response, Exception):
            raise response
        return response


@pytest.fixture
def client_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Far], Any]:
    from flwr.supercore.protobuf.client import ProtobufClient

    from melfed.client.flower.fleet_client import ClinicFleetClient, Line

    def make(far: Far) -> Any:
        monkeypatch.setattr(ProtobufClient, "_unary_unary", far.answer)
        line = Line("there", Audit())  # type: ignore[arg-type]
        return ClinicFleetClient("https://there", [], ssl.create_default_context(), line, tmp_path / "node-id")

    return make


def test_a_return_leaves_first(client_of: Callable[[Far], Any], tmp_path: Path) -> None:
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse

    far = Far(activate_node=ActivateNodeResponse(node_id=2**63 + 5), deactivate_node=refusal(412))
    client = client_of(far)
    client.ActivateNode(ActivateNodeRequest(public_key=b"key"))
    assert far.calls == ["activate_node"]
    assert (tmp_path / "node-id").read_text() == str(2**63 + 5)
    client_of(far).ActivateNode(ActivateNodeRequest(public_key=b"key"))
    assert far.calls == ["activate_node", "deactivate_node", "activate_node"]


def test_leaving_is_tried_again_while_superlink_is_away(client_of: Callable[[Far], Any], tmp_path: Path) -> None:
    from flwr.proto.fleet_pb2 import ActivateNodeRequest

    (tmp_path / "node-id").write_text("7")
    with pytest.raises(httpx.HTTPStatusError):
        client_of(Far(deactivate_node=refusal(503))).ActivateNode(ActivateNodeRequest())


def test_after_a_cut_pull_the_server_is_made_to_ask_again(client_of: Callable[[Far], Any]) -> None:
    from flwr.proto.fleet_pb2 import DeactivateNodeResponse, PullMessagesRequest, PullMessagesResponse
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
    from flwr.proto.node_pb2 import Node

    nothing = PullMessagesResponse()
    far = Far(
        pull_messages=[httpx.ConnectError("away"), nothing, httpx.ReadTimeout("cut"), nothing, nothing],
        deactivate_node=DeactivateNodeResponse(),
        send_node_heartbeat=SendNodeHeartbeatResponse(success=True),
    )
    client = client_of(far)
    request = PullMessagesRequest(node=Node(node_id=7))
    with pytest.raises(httpx.ConnectError):
        client.PullMessages(request)
    client.PullMessages(request)
    assert "deactivate_node" not in far.calls  # nothing had left this machine
    with pytest.raises(httpx.ReadTimeout):
        client.PullMessages(request)
    client.PullMessages(request)
    client.PullMessages(request)
    assert far.calls[3:] == ["pull_messages", "deactivate_node", "send_node_heartbeat", "pull_messages"]


@pytest.mark.parametrize("answer", [refusal(403, "nginx"), refusal(500), ValueError("a web page"), None])
def test_the_heart_beats_on(client_of: Callable[[Far], Any], answer: Exception | None) -> None:
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse

    client = client_of(Far(send_node_heartbeat=answer or SendNodeHeartbeatResponse(success=False)))
    with pytest.raises(httpx.TransportError):  # Flower's thread ends after any other
        client.SendNodeHeartbeat(SendNodeHeartbeatRequest())


@pytest.mark.parametrize(
    ("answer", "over"),
    [
        (refusal(403, FORBIDDEN_BY_FLOWER), ""),
        (refusal(403, json.dumps(json.loads(FORBIDDEN_BY_FLOWER) | {"extra": "Stopped by user."})), "stopped by user."),
    ],
)
def test_the_end_of_a_run_is_heard(client_of: Callable[[Far], Any], answer: Exception, over: str) -> None:
    assert client_of(Far(get_run=answer)).ask_run(5, 7) == over


def test_the_edge_does_not_end_a_run(client_of: Callable[[Far], Any]) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        client_of(Far(get_run=refusal(403, "<html>nginx</html>"))).ask_run(5, 7)


def test_a_process_names_itself_in_each_request_and_another_otherwise() -> None:
    from types import SimpleNamespace

    from melfed.client.flower.fleet_client import NamedProcess
    from melfed.common.messages import PROCESS_HEADER

    def named(process: NamedProcess) -> str:
        request = httpx.Request("POST", "https://127.0.0.1/v1/fleet/pull-messages")
        context: Any = SimpleNamespace(request=request)
        process.intercept(context, lambda _: httpx.Response(200))
        return request.headers[PROCESS_HEADER]

    one, two = NamedProcess(), NamedProcess()
    assert named(one) == named(one)
    assert named(one) != named(two)
    assert len(named(one)) == 16
