"""What SuperLink does when clinics send and fetch objects: the bytes themselves pass it by as far as they can.

A clinic that fetches an object is sent its file by the edge: SuperLink says in `X-Accel-Redirect` which, once it has
found that the clinic may have it. What a clinic sends is in a file of the edge's, and is checked and written before
SuperLink takes the lock of its database, for which everybody else waits.
"""

import asyncio
import contextlib
import functools
import logging as log
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError

from melfed.server.config import BODY_HEADER, OBJECTS, PUSH
from melfed.server.flower.object_files import IN_FILE, FileObjectStore, answer_head

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

PULL_PATH: Final = "/v1/fleet/pull-object"
PUSH_PATH: Final = f"/v1/fleet/{PUSH}"
_DIGITS = 64


def pointing(pull: Callable[..., PullObjectResponse]) -> Callable[..., PullObjectResponse]:
    """Return Flower's function that answers who pulls an object, with the object's name in place of its content."""

    @functools.wraps(pull)
    def pull_object(request: PullObjectRequest, state: Any) -> PullObjectResponse:
        store = state.object_store
        if not isinstance(store, FileObjectStore):
            return pull(request=request, state=state)
        with store.pointing():
            response = pull(request=request, state=state)
        if response.object_content == IN_FILE:
            response.object_content = IN_FILE + request.object_id.encode()
        return response

    return pull_object


def staging(push: Callable[..., PushObjectResponse]) -> Callable[..., PushObjectResponse]:
    """Return Flower's function that takes an object, which by then is checked and in a file."""

    @functools.wraps(push)
    def push_object(request: PushObjectRequest, state: Any) -> PushObjectResponse:
        store = state.object_store
        if not isinstance(store, FileObjectStore):
            return push(request=request, state=state)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(store.staged(request.object_id, request.object_content))
                request.ClearField("object_content")  # each look at it would be a copy, and it waits for the lock
            except (ValueError, UnexpectedObjectContentError, OSError) as error:
                log.error("object %s of node %s is not stored: %s", request.object_id, request.node.node_id, error)
                return PushObjectResponse(stored=False)
            return push(request=request, state=state)

    return push_object


class ReceivedByEdge:
    """A layer of SuperLink's HTTP application below `PUSH_PATH`: a request's body is in the file that the edge names.

    Args:
        app: what comes after it.
        folder: of such files; no other is read.
    """

    def __init__(self, app: Callable[..., Any], folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on with its body; one without a file as it is."""
        path = self._file(scope)
        if path is None:
            await self.app(scope, receive, send)
            return
        bodies = [await asyncio.to_thread(path.read_bytes)]

        async def whole() -> "Message":
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            message = await receive()
            while message["type"] == "http.request":  # its own, which is empty
                message = await receive()
            return message

        await self.app(scope, whole, send)

    def _file(self, scope: "Scope") -> Path | None:
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == BODY_HEADER.encode()]
        path = Path(named[0]) if len(named) == 1 else self.folder
        return path if path.parent == self.folder and path.is_file() else None


class SentByEdge:
    """A layer of SuperLink's HTTP application below `PULL_PATH`: the edge sends the file that an answer names."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, and change its answer."""
        begun: list[Message] = []
        body = bytearray()

        async def changed(message: "Message") -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            if (name := named(bytes(body))) is not None:
                kept = [header for header in begun[0]["headers"] if header[0].lower() != b"content-length"]
                begun[0]["headers"] = [*kept, (b"x-accel-redirect", f"{OBJECTS}{name}".encode())]
                body.clear()
            await send(begun[0])
            await send({"type": "http.response.body", "body": bytes(body)})

        await self.app(scope, receive, changed)


def named(body: bytes) -> str | None:
    """Return the name that stands in an answer in place of an object; None of any other answer."""
    head = answer_head(len(IN_FILE) + _DIGITS) + IN_FILE
    return body[len(head) :].decode() if body.startswith(head) and len(body) == len(head) + _DIGITS else None
