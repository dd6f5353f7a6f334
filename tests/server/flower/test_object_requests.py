"""Objects of clinics' requests: the edge is told what to send, and what comes is checked before the database waits."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import Node

from melfed.server.config import BODY_HEADER
from melfed.server.flower.object_files import FileObjectStore
from melfed.server.flower.object_requests import ReceivedByEdge, SentByEdge, named, pointing, staging

CONTENT = b"ArrayChunk  5\x00hello"
NAME = hashlib.sha256(CONTENT).hexdigest()


class State:
    """As much of SuperLink's state as answers need."""

    def __init__(self, folder: Path) -> None:
        self.object_store: Any = FileObjectStore(str(folder / "flower.db"))
        self.object_store.initialize()
        self.object_store.preregister(1, ObjectTree(object_id=NAME))


def pulled(request: PullObjectRequest, state: State) -> PullObjectResponse:
    content = state.object_store.get(request.object_id)
    there = bool(content)
    return PullObjectResponse(object_found=content is not None, object_available=there, object_content=content or b"")


def pushed(request: PushObjectRequest, state: State) -> Any:
    from flwr.proto.message_pb2 import PushObjectResponse

    state.object_store.put(request.object_id, request.object_content)
    return PushObjectResponse(stored=True)


def test_who_may_have_an_object_is_told_which_and_sent_its_file(tmp_path: Path) -> None:
    state = State(tmp_path)
    request = PullObjectRequest(object_id=NAME)
    pull = pointing(pulled)
    assert pull(request=request, state=state) == PullObjectResponse(object_found=True), "not there yet"
    state.object_store.put(NAME, CONTENT)
    answer = pull(request=request, state=state).SerializeToString()
    assert named(answer) == NAME
    assert len(answer) < 100
    assert (tmp_path / "objects" / NAME).read_bytes() == pulled(request, state).SerializeToString()
    assert pull(request=PullObjectRequest(object_id="b" * 64), state=state) == PullObjectResponse()
    state.object_store = None  # another store: as Flower's own
    with pytest.raises(AttributeError):
        pull(request=request, state=state)


def answered(body: bytes, pieces: int = 1) -> tuple[dict[bytes, bytes], bytes]:
    """The headers and the body that come through the layer."""
    got: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"9"), (b"x", b"y")]})
        step = -(-len(body) // pieces) or 1
        for index in range(pieces):
            part = body[index * step : (index + 1) * step]
            await send({"type": "http.response.body", "body": part, "more_body": index + 1 < pieces})

    async def send(message: dict[str, Any]) -> None:
        got.append(message)

    asyncio.run(SentByEdge(app)({}, None, send))
    assert [message["type"] for message in got] == ["http.response.start", "http.response.body"]
    return dict(got[0]["headers"]), got[1]["body"]


@pytest.mark.parametrize("pieces", [1, 3])
def test_only_an_answer_that_names_an_object_becomes_a_redirect(tmp_path: Path, pieces: int) -> None:
    state = State(tmp_path)
    state.object_store.put(NAME, CONTENT)
    answer = pointing(pulled)(request=PullObjectRequest(object_id=NAME), state=state).SerializeToString()
    headers, body = answered(answer, pieces)
    assert headers == {b"x": b"y", b"x-accel-redirect": f"/objects/{NAME}".encode()}
    assert body == b""
    for other in (b"", PullObjectResponse(object_found=True).SerializeToString(), b"{}", answer + b"x"):
        headers, body = answered(other, pieces)
        assert (headers.keys(), body) == ({b"Content-Length", b"x"}, other)


def bodies(folder: Path, headers: list[tuple[bytes, bytes]], own: bytes = b"its own") -> tuple[list[bytes], str]:
    """What an application reads through the layer: all bodies until the connection ends, and how that is told."""
    coming = [
        {"type": "http.request", "body": own, "more_body": False},
        {"type": "http.disconnect"},
    ]
    read: list[bytes] = []
    told: list[str] = []

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            read.append(message["body"])
        told.append(message["type"])

    asyncio.run(ReceivedByEdge(app, folder)({"headers": headers}, receive, None))
    return read, told[0]


def test_a_body_is_read_where_the_edge_has_put_it_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "client_body"
    (folder / "below").mkdir(parents=True)
    for path in (folder / "0000000001", folder / "below" / "file", tmp_path / "secret"):
        path.write_bytes(b"in " + path.name.encode())
    name = BODY_HEADER.encode()
    there = (name, str(folder / "0000000001").encode())
    assert bodies(folder, [(b"x", b"y"), there]) == ([b"in 0000000001"], "http.disconnect")
    others = ["", "0000000001", str(folder), str(folder / "below" / "file"), str(tmp_path / "secret"),
              f"{folder}/../secret", str(folder / "0000000002")]  # fmt: skip
    for other in others:
        assert bodies(folder, [(name, other.encode())])[0] == [b"its own"], other
    assert bodies(folder, [there, there])[0] == [b"its own"]


def test_what_comes_is_stored_and_what_is_not_what_it_says_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, push = State(tmp_path), staging(pushed)

    def request(content: bytes) -> PushObjectRequest:
        return PushObjectRequest(node=Node(node_id=7), object_id=NAME, object_content=content)

    assert not push(request=request(b"another"), state=state).stored
    garbage = PushObjectRequest(object_id=hashlib.sha256(b"x").hexdigest(), object_content=b"x")
    assert not push(request=garbage, state=state).stored
    with monkeypatch.context() as full:
        full.setattr(state.object_store.files, "draft", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert not push(request=request(CONTENT), state=state).stored
    assert state.object_store.get(NAME) == b""
    assert push(request=request(CONTENT), state=state).stored
    assert state.object_store.get(NAME) == CONTENT
    assert [path.name for path in (tmp_path / "objects").iterdir() if path.is_file()] == [NAME]
