"""The SuperNode's adaptations: each by itself, and a clinic of real processes at a real SuperLink."""

import contextlib
import hashlib
import importlib
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from client import supernode
from client.flower_parts import check_flower, prepare
from common.errors import ServiceError
from tests.client.superlink import Stack, answers, bundle, free_port, stack, until, write_kit

FORBIDDEN_BY_FLOWER = json.dumps({"code": 2007, "detail": "The current run status does not allow this."})


@pytest.fixture
def kit(tmp_path: Path) -> Any:
    return write_kit(tmp_path, [], free_port())


def refusal(status: int, body: str = "") -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://127.0.0.1/v1/fleet/get-run")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, text=body))


def test_flower_is_the_one_that_this_was_written_for() -> None:
    check_flower(supernode.RELIED_ON)


@pytest.mark.parametrize(
    "change", [("flwr.supernode.start_client_internal:_push_messages", "0" * 16), ("flwr.x:y", "")]
)
def test_another_flower_is_refused_by_name(change: tuple[str, str]) -> None:
    with pytest.raises(ServiceError, match=change[0]):
        check_flower(dict([change]))


def test_environment_and_secret(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"FLWR_LOG_LEVEL": "DEBUG", "HOME": "/nowhere"})
    secret = prepare(kit)
    first = secret.read_bytes()
    assert len(first) == 64
    assert prepare(kit).read_bytes() == first
    assert secret.stat().st_mode & 0o777 == 0o600
    assert kit.messenger_state.stat().st_mode & 0o777 == 0o700
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert Path(os.environ["FLWR_HOME"]).is_relative_to(kit.messenger_state)
    assert "FLWR_LOG_LEVEL" not in os.environ
    assert not [path for path in kit.messenger_state.iterdir() if path != secret]


def test_no_secret_is_an_argument(kit: Any) -> None:
    line = " ".join(supernode.arguments(kit, prepare(kit)))
    assert prepare(kit).read_text() not in line
    assert "--isolation=process" in line
    assert "--host=127.0.0.1" in line
    assert "insecure" not in line


@contextlib.contextmanager
def tls_server(kit: Any, *, trusts: str = "ca.crt") -> Iterator[int]:
    """A server that answers those who show a certificate of the CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit.folder / "server.crt", kit.folder / "server.key")
    context.load_verify_locations(kit.folder / trusts)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as line:
            line.recv(10_000)
            line.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(10)


def test_the_certificate_is_shown(kit: Any) -> None:
    with tls_server(kit) as port, httpx.Client(verify=supernode.tls_context(kit)) as client:
        assert client.get(f"https://127.0.0.1:{port}").status_code == 204


def test_a_server_of_another_ca_is_not_spoken_to(kit: Any, tmp_path: Path) -> None:
    other = write_kit(tmp_path / "other", [], 1)
    refused = pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED")
    with tls_server(kit) as port, httpx.Client(verify=supernode.tls_context(other)) as client, refused:
        client.get(f"https://127.0.0.1:{port}")


@pytest.mark.parametrize("name", ["ca.crt", "clinic.crt", "clinic.key"])
def test_a_spoilt_kit_is_named(kit: Any, name: str) -> None:
    (kit.folder / name).write_text("nonsense")
    with pytest.raises(ServiceError, match=r"put the kit's own files back") as caught:
        supernode.tls_context(kit)
    assert "\n" not in str(caught.value)


class Audit:
    def __init__(self) -> None:
        self.events: list[int] = []

    def record(self, event: Any, **_: Any) -> None:
        self.events.append(event.id)


def test_a_broken_line_is_told_once_and_tried_until_it_is_back() -> None:
    from client.fleet import Line

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
def test_a_refusal_is_not_tried_again(status: int) -> None:
    from client.fleet import Line

    calls = []

    def call() -> None:
        calls.append(1)
        raise refusal(status, "<html>nginx</html>")

    with pytest.raises(httpx.HTTPStatusError):
        Line("there", Audit()).invoker().invoke(call)  # type: ignore[arg-type]
    assert len(calls) == 1


def test_a_run_that_is_over_is_flowers_own_error() -> None:
    from flwr.supercore.run import RunNotRunningException

    from client.fleet import Line

    with pytest.raises(RunNotRunningException):
        Line("there", Audit()).hopeless(refusal(403, FORBIDDEN_BY_FLOWER))  # type: ignore[arg-type]


def test_a_server_that_fails_for_ever_is_left() -> None:
    from client.fleet import MAX_SERVER_ERRORS, Line

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

    from client.fleet import ClinicFleetClient, Line

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


def test_polls_are_quick_after_a_message_and_slow_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from client import carrier

    slept: list[float] = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        carrier, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: clock.now, time=time.time)
    )
    made = carrier.Carrier(lambda _: None, lambda _: None)
    made.idle(3)
    clock.now = carrier.BUSY_SECONDS + 1
    made.idle(3)
    assert slept == [carrier.BUSY_POLL, carrier.IDLE_POLL]


class Parts:
    """What SuperLink has of a reply; it refuses a part that it has already, as Flower's does."""

    def __init__(self, *names: str) -> None:
        self.missing, self.announced = set(names), 0
        self.lose: set[str] = set()
        self.refuse_all = 0

    def announce(self) -> tuple[set[str], str]:
        self.announced += 1
        return set(self.missing), f"session {self.announced}"

    def push(self, _session: str, name: str, _content: bytes) -> None:
        from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

        if self.refuse_all > 0:
            self.refuse_all -= 1
            raise ObjectPushError(name, 1, "")
        known = name not in self.missing
        self.missing.discard(name)
        if known or name in self.lose:
            raise ObjectPushError(name, 1, "")


def test_a_part_that_had_arrived_does_not_keep_the_rest_from_being_sent() -> None:
    from client.carrier import _send

    far = Parts("a", "b", "c", "d")
    far.lose = {"a"}  # stored, but its answer was lost; the repetition is refused
    assert _send(dict.fromkeys("abcd", b""), far.announce, far.push)
    assert not far.missing
    assert far.announced == 2


def test_a_reply_is_announced_anew_after_its_session_is_over() -> None:
    from client.carrier import SENDINGS, _send

    far = Parts("a", "b")
    far.refuse_all = 2
    assert _send(dict.fromkeys("ab", b""), far.announce, far.push)
    assert not far.missing
    far = Parts("a", "b")
    far.refuse_all = 1000
    assert not _send(dict.fromkeys("ab", b""), far.announce, far.push)
    assert far.announced == SENDINGS


def carrying(ask_run: Callable[[int, int], Any], tasks: bool, ttl: float = 60.0) -> tuple[Any, Any, list[int]]:
    """A carrier with a message in hand, Flower's state with it, and the runs that were cancelled."""
    from flwr.app import Metadata, RecordDict
    from flwr.app.message import make_message
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    from client.carrier import Carrier

    cancelled: list[int] = []
    made: Any = Carrier(cancelled.append, lambda _: None)
    made.client = SimpleNamespace(ask_run=ask_run)
    state = InMemoryNodeState(InMemoryObjectStore())
    state.set_node_id(7)
    metadata = Metadata(5, "ab" * 32, 1, 7, "", "", time.time(), ttl, "query.sleep")
    message = make_message(metadata, content=RecordDict())
    state.store_message(message)
    if tasks:
        assert state.create_task("flwr-clientapp", 5, fab_hash="x")
    made._message = message
    return made, state, cancelled


def nothing_sent(*_: Any) -> Any:
    raise AssertionError("nothing is to be sent")


@pytest.mark.parametrize(("words", "cancelled"), [("stopped by user.", [5]), ("", [])])
def test_work_for_a_stopped_run_is_cancelled_and_for_a_failed_one_later(
    monkeypatch: pytest.MonkeyPatch, words: str, cancelled: list[int]
) -> None:
    from client import carrier

    monkeypatch.setattr(carrier, "RUN_CHECK_SECONDS", 0.0)
    made, state, called = carrying(lambda run, node: words if (run, node) == (5, 7) else None, tasks=True)
    made.push(state, state.object_store, nothing_sent, nothing_sent)
    assert not state.msg_store
    time.sleep(0.2)
    assert called == cancelled


def test_a_failed_runs_work_is_cancelled_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    from client import carrier

    monkeypatch.setattr(carrier, "RUN_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(carrier, "GRACE_SECONDS", 0.05)
    made, state, called = carrying(lambda *_: "", tasks=True)
    made.push(state, state.object_store, nothing_sent, nothing_sent)
    until(lambda: called == [5], 5)


def test_a_line_that_is_down_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from client import carrier

    monkeypatch.setattr(carrier, "RUN_CHECK_SECONDS", 0.0)

    def away(*_: Any) -> None:
        raise httpx.ConnectError("away")

    made, state, called = carrying(away, tasks=True, ttl=0.5)  # it ends with the message's time
    started = time.monotonic()
    made.push(state, state.object_store, nothing_sent, nothing_sent)
    assert time.monotonic() - started > 0.3
    assert not called


def test_a_clientapp_that_ended_without_a_reply_is_answered_for() -> None:
    made, state, _ = carrying(lambda *_: None, tasks=False)
    sent: list[Any] = []

    def send(reply: Any, _tree: Any, _seconds: float) -> tuple[set[str], str]:
        sent.append(reply)
        return set(), "session"

    made.push(state, state.object_store, send, nothing_sent)
    assert [reply.metadata.reply_to_message_id for reply in sent] == ["ab" * 32]
    assert "ask again" in sent[0].error.reason
    assert not state.msg_store


def test_a_message_that_came_in_part_is_answered_for() -> None:
    made, state, _ = carrying(lambda *_: None, tasks=False)
    message = made._message

    def flower(*, receive: Callable[[], Any], **_: Any) -> None:
        receive()

    parts = {"state": state, "object_store": state.object_store, "get_fab": None}
    assert made.pull(flower, receive=lambda: (message, None), **parts) == 5
    assert [bool(each.metadata.reply_to_message_id) for each in state.get_messages_legacy(is_reply=True)] == [True]
    assert made.pull(flower, receive=lambda: None, **parts) is None


def test_a_bundle_that_is_not_listed_is_not_even_unpacked(kit: Any) -> None:
    from flwr.common.constant import ErrorCode

    from client.flower_parts import check_bundle

    prepare_folder(kit)
    made, state, _ = carrying(lambda *_: None, tasks=False)
    made.check = lambda content: check_bundle(kit, content, "supernode")
    message = made._message

    def flower(*, receive: Callable[[], Any], get_fab: Callable[..., Any], **_: Any) -> int:
        receive()
        get_fab("hash", 5)
        raise AssertionError("goes on with the bundle")

    fab = SimpleNamespace(content=b"a zip bomb")
    parts = {"state": state, "object_store": state.object_store, "get_fab": lambda *_: fab}
    assert made.pull(flower, receive=lambda: (message, None), **parts) == 5
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.error.code == ErrorCode.INVALID_FAB
    assert '"id":1010' in kit.messenger_audit_log.read_text()


def prepare_folder(kit: Any) -> None:
    kit.messenger_state.mkdir(mode=0o700, parents=True)


def test_the_parts_are_put_in_place(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["start_client_internal", "fleet_http_connection"]
    flower, connection = (importlib.import_module(f"flwr.supernode.{name}") for name in names)
    others = [
        importlib.import_module(f"flwr.supercore.{name}") for name in ("heartbeat", "corestate.in_memory_corestate")
    ]
    for module in (flower, connection, *others):
        for name, value in list(vars(module).items()):
            monkeypatch.setattr(module, name, value)  # put back in the end
    supernode.adapt(kit, supernode.tls_context(kit))
    assert flower._push_messages.__self__.__class__.__name__ == "Carrier"
    assert connection.HEARTBEAT_DEFAULT_INTERVAL == 10
    client = connection.FleetHttpClient.from_server_address("127.0.0.1:1", False, None, interceptors=[])
    assert type(client).__name__ == "ClinicFleetClient"
    assert client is flower._push_messages.__self__.client


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A real SuperLink with one clinic, which approves one bundle."""
    with stack(tmp_path_factory.mktemp("stack"), [hashlib.sha256(bundle()).hexdigest()]) as made:
        yield made


def ask(clinic: Stack, name: str, app: bytes | None = None, **settings: float) -> list[dict[str, Any]]:
    """Run the small app, and return what it got."""
    out = clinic.folder / f"{name}.jsonl"
    clinic.run(app or bundle(), out, **settings)
    until(lambda: len(answers(out)) == settings.get("asks", 1), 30)
    return answers(out)


def test_messages_go_there_and_back(clinic: Stack) -> None:
    found = ask(clinic, "there", asks=3, floats=1000)
    assert [answer["error"] for answer in found] == [None] * 3
    assert {answer["clinic"] for answer in found} == {"clinic1"}
    assert len({answer["pid"] for answer in found}) == 3
    assert min(answer["at"] for answer in found) < 1.5


def test_an_unknown_bundle_is_refused_and_told(clinic: Stack) -> None:
    evil = bundle("Path('stolen').touch()\n")
    (answer,) = ask(clinic, "evil", evil)
    assert "app bundle SHA is not approved at this clinic" in answer["error"]
    records = [json.loads(line) for line in clinic.config.messenger_audit_log.read_text().splitlines()]
    assert [record["sha256"] for record in records if record["id"] == 1010] == [hashlib.sha256(evil).hexdigest()]
    assert not list(clinic.folder.rglob("stolen"))


def test_a_clientapp_killed_at_work_is_told_at_once(clinic: Stack) -> None:
    out = clinic.folder / "killed.jsonl"
    clinic.run(bundle(), out, delay=60.0)
    os.kill(int(until(lambda: out.with_suffix(".pid").exists() and out.with_suffix(".pid").read_text(), 20)), 9)
    until(lambda: answers(out), 10)
    assert "ask again" in answers(out)[0]["error"]


def test_a_killed_supernode_is_back_at_once(clinic: Stack) -> None:
    before = clinic.node()
    clinic.kill("supernode")
    clinic.start("supernode")
    started = time.monotonic()
    until(lambda: clinic.node().last_activated_at != before.last_activated_at, 20)
    assert time.monotonic() - started < 10  # two heartbeats of Flower's are 60 s
    assert clinic.node().node_id == before.node_id
    assert ask(clinic, "back")[0]["error"] is None


def test_a_reply_survives_a_cut_line(clinic: Stack) -> None:
    out = clinic.folder / "cut.jsonl"
    clinic.wire.cut_after = clinic.wire.passed + 1_000_000
    clinic.run(bundle(), out, floats=1_500_000)
    until(lambda: clinic.wire.is_cut, 30)
    time.sleep(0.5)
    clinic.wire.mend()
    until(lambda: answers(out), 30)
    assert answers(out)[0]["error"] is None


def test_superlink_may_be_killed(clinic: Stack) -> None:
    events = clinic.config.messenger_audit_log
    clinic.kill("superlink")
    until(lambda: '"id":1016' in events.read_text().splitlines()[-1], 10)
    clinic.start("superlink")
    until(lambda: '"id":1017' in events.read_text().splitlines()[-1], 20)
    assert ask(clinic, "superlink")[0]["error"] is None


def test_both_leave_within_seconds_and_log_no_secret(clinic: Stack) -> None:
    secret = (clinic.config.messenger_state / "superexec.secret").read_text()
    for name in ("messenger", "supernode"):
        started = time.monotonic()
        assert clinic.kill(name, signal.SIGTERM) == 0, clinic.log(name)
        assert time.monotonic() - started < 5
        assert secret not in clinic.log(name)
    assert clinic.node().status == "offline"
