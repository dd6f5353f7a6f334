"""What melfed changes in Flower's SuperLink, and in the memory that its processes keep."""

import asyncio
import hashlib
import importlib
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from melfed.common.process.child import ALLOCATOR
from melfed.server.daemon.daemon import children
from melfed.server.edge.nginx import Edge
from melfed.server.flower import superlink
from melfed.server.flower.superlink import CONTROL_LAYERS, PRAGMAS, UNUSED_LAYERS, short_way
from melfed.server.runs.state import RunState, write_state
from tests.server.coordinator import make_kits


def test_sqlite_takes_the_databases_settings(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as database:
        for name, value in PRAGMAS.items():
            database.execute(f"PRAGMA {name} = {value}")
            assert str(database.execute(f"PRAGMA {name}").fetchone()[0]) == value, name


class Noting:
    """A layer that notes which requests it sees."""

    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self.app, self.seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append(scope["path"])
        await self.app(scope, receive, send)


def layer(name: str, seen: list[str]) -> Middleware:
    return Middleware(type(name, (Noting,), {}), seen=seen)  # type: ignore[arg-type]


async def asked(app: ASGIApp, path: str) -> None:
    """Have an application answer one request."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(_: Any) -> None:
        pass

    await app({"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}, receive, send)


def test_messages_go_past_the_control_interfaces_layers_and_all_else_as_before() -> None:
    from starlette.applications import Starlette

    names = ["First", *sorted(CONTROL_LAYERS), *sorted(UNUSED_LAYERS), "NodeAuthMiddleware"]
    seen: dict[str, list[str]] = {name: [] for name in names}
    paths = ["/v1/control/list-nodes", "/v1/fleet/pull-object", "/v1/runtime/push-object", "/v1/control", "/"]
    app = Starlette(middleware=short_way([layer(name, seen[name]) for name in names]))
    with asyncio.Runner() as runner:
        for path in paths:
            runner.run(asked(app, path))
    assert seen["First"] == seen["NodeAuthMiddleware"] == paths
    assert all(seen[name] == paths[:1] for name in CONTROL_LAYERS)
    assert not any(seen[name] for name in UNUSED_LAYERS)


def test_flowers_layers_are_those_that_this_was_written_for() -> None:
    layers = [kept.cls.__name__ for kept in importlib.import_module("flwr.superlink.main")._get_middleware()]
    assert [name for name in layers if name not in CONTROL_LAYERS | UNUSED_LAYERS] == [
        "BaseHTTPMiddleware",
        "ProtobufTranslationMiddleware",
        "NodeAuthMiddleware",
    ]
    assert set(layers) > CONTROL_LAYERS | UNUSED_LAYERS
    assert superlink.CONTROL_PATH == "/v1/control/"


def test_dead_serverapps_are_looked_for_twice_a_second_and_no_traffic_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    looks: list[object] = []
    monkeypatch.setattr(SqlLinkState, "_cleanup_expired_task_tokens", looks.append)
    monkeypatch.setattr(SqlLinkState, "store_traffic", None)
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(superlink, "time", SimpleNamespace(monotonic=lambda: clock.now))
    superlink._write_seldom()
    one, other = (SqlLinkState.__new__(SqlLinkState) for _ in range(2))
    for seconds in (0.0, 0.2, 0.2, 0.2, 0.2):
        clock.now += seconds
        one._cleanup_expired_task_tokens()
    other._cleanup_expired_task_tokens()
    assert looks == [one, one, other]
    one.store_traffic(7, bytes_sent=1, bytes_recv=0)


def test_flowers_processes_give_memory_back(tmp_path: Path) -> None:
    config = make_kits(tmp_path)
    for child in children(config, Edge(config)):
        if child.name != "nginx":
            assert child.environment.items() >= ALLOCATOR.items(), child.name


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (RunState(wanted=False, status="stopped", flower_run=7), "stopped"),
        (RunState(wanted=True, status="running", flower_run=7), None),  # its ServerApp has died
        (RunState(wanted=True, status="running", flower_run=8), None),  # another goes on with it already
    ],
)
def test_a_clinic_that_asks_after_a_run_that_is_over_is_told_whether_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: RunState, told: str | None
) -> None:
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.superlink.servicer.fleet import fleet_handlers

    def over(request: object, state: object) -> None:
        raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "over")

    config = make_kits(tmp_path)
    for name in ("other", "run"):
        (config.runs / name).mkdir(parents=True)
    (config.runs / "other" / "state.json").write_text("{")  # damaged: said in the log, and no answer fails by it
    write_state(config.runs / "run", state)
    monkeypatch.setattr(fleet_handlers, "get_run", over)
    superlink._tell_of_stops(config)
    with pytest.raises(FlowerError) as caught:
        fleet_handlers.get_run(request=GetRunRequest(run_id=7), state=None)
    assert caught.value.public_details == told


class Stored:
    """SuperLink's own database, with a run under way and two nodes."""

    def __init__(self, folder: Path) -> None:
        from flwr.server.superlink.linkstate import LinkStateFactory
        from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
        from flwr.supercore.object_store import ObjectStoreFactory
        from flwr.superlink.federation import NoOpFederationManager

        self.database, self.began = folder / "flower.db", time.time()
        objects = ObjectStoreFactory(str(self.database))
        self.state = LinkStateFactory(str(self.database), NoOpFederationManager(), objects).state()
        self.nodes = [self.state.create_node("x", "x", name, 30.0) for name in (b"a", b"b")]
        assert all(self.state.activate_node(node, 30.0) for node in self.nodes)
        self.run = self.state.create_run("x/y", "1", "0" * 64, {}, NOOP_FEDERATION_ID, None, "x", TaskType.SERVER_APP)
        (task,) = self.state.get_tasks(run_ids=[self.run])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)

    def message(self, source: int, target: int, answers: str = "") -> Message:
        """A message that says of itself what it likes."""
        identity = hashlib.sha256(f"{source} {target} {answers}".encode()).hexdigest()
        stated = {"message_id": identity, "src_node_id": source, "dst_node_id": target, "reply_to_message_id": answers}
        about = Metadata(run_id=self.run, group_id="", ttl=60.0, message_type="train", created_at=self.began, **stated)
        return make_message(metadata=about, content=RecordDict())

    def push(self, node: int, message: Message) -> None:
        """Have SuperLink take a message, as it does of a node that has signed for itself."""
        from flwr.common.serde import message_to_proto
        from flwr.superlink.servicer.fleet import fleet_handlers

        request = PushMessagesRequest(
            node=Node(node_id=node),
            messages_list=[message_to_proto(message)],
            message_object_trees=[ObjectTree(object_id=message.metadata.message_id)],
        )
        fleet_handlers.push_messages(request=request, state=self.state)

    def held(self, table: str) -> int:
        """How many messages are in the database."""
        with sqlite3.connect(self.database) as database:
            return int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_a_clinic_gives_no_orders_and_answers_for_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.superlink.servicer.fleet import fleet_handlers

    monkeypatch.setattr(fleet_handlers, "push_messages", fleet_handlers.push_messages)
    stored = Stored(tmp_path)
    server, (one, other) = 1, stored.nodes
    stored.push(one, stored.message(server, other))
    assert stored.held("message_ins") == 1, "Flower takes an order from anybody; if that has changed, this goes"
    superlink._take_replies_alone()
    asked = stored.message(server, one)
    assert stored.state.store_message_ins(asked)
    identity = asked.metadata.message_id
    hostile = [(server, other, ""), (one, other, ""), (other, server, identity), (server, server, identity)]
    for source, target, answers in hostile:
        with pytest.raises(HTTPException) as caught:
            stored.push(one, stored.message(source, target, answers))
        assert caught.value.status_code == 403
    assert (stored.held("message_ins"), stored.held("message_res")) == (2, 0)
    stored.push(one, stored.message(one, server, identity))
    assert (stored.held("message_ins"), stored.held("message_res")) == (2, 1)
