"""Flower messages between the ServerApp and the clinics of one machine, without a SuperLink.

Flower's own link for simulations keeps every message of the run, looks through all of them for each node ten times a
second, and copies a request's content for each clinic. Here a request's content is written to a file once, whatever the
number of clinics, and a reply is handed over as soon as it is there.
"""

import copy
import pickle
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from melfed.simulations.engine.attempts import ENDED, LOST_FOR_GOOD, EndedError, LostError, NobodyError
from melfed.simulations.engine.local_worker import answer
from melfed.simulations.engine.process_pool import ProcessPool

WAIT_SECONDS = 0.1
"""So long does a pull wait for a reply: as often does the run look whether it is to stop, and draw its progress."""
NOBODY = "no process is left that could do it, and none can be started; free memory, or ask for more resources.cpus"
REQUESTS = "requests"


@dataclass
class _Content:
    """A request's content in its file, which is removed when it is answered and no more asked."""

    path: Path
    content: RecordDict
    open: int = 0


class LocalGrid:
    """A `melfed.server.flower.channel.MessageGrid` over a pool of processes; node i + 1 is clinic i."""

    def __init__(self, clinics: int, pool: ProcessPool, workspace: Path) -> None:
        self._clinics, self._pool, self._workspace = clinics, pool, workspace
        (workspace / REQUESTS).mkdir()
        self._names = count(1)
        self._current: _Content | None = None
        self._arrived = threading.Condition()
        self._replies: dict[str, Message] = {}

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all clinics' nodes; none is ever offline."""
        return [NodeInfo(node_id=number) for number in range(1, self._clinics + 1)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Give messages to the clinics, each as soon as a process is free; return their identities."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to some messages that have arrived, each once; waits a moment for the first."""
        wanted = set(message_ids)
        with self._arrived:
            self._arrived.wait_for(lambda: self._replies, WAIT_SECONDS)
            arrived, self._replies = self._replies, {}
        return [reply for identity, reply in arrived.items() if identity in wanted]

    def _push(self, message: Message) -> str:
        identity = str(next(self._names))
        content = self._written(message.content)
        bare = copy.copy(message)
        bare.content = RecordDict()
        bare.metadata.__dict__["_message_id"] = identity  # a SuperLink's work otherwise
        clinic = message.metadata.dst_node_id - 1
        with self._arrived:
            content.open += 1
        future = self._pool.submit(clinic, partial(answer, self._workspace, bare, content.path, clinic))
        future.add_done_callback(partial(self._answered, bare, content))
        return identity

    def _written(self, content: RecordDict) -> _Content:
        """Return where a content is written; it is the same object for all clinics of a round."""
        current = self._current
        if current is None or current.content is not content:
            path = self._workspace / REQUESTS / str(next(self._names))
            path.write_bytes(pickle.dumps(content))
            with self._arrived:
                if current is not None and not current.open:
                    current.path.unlink()
                current = self._current = _Content(path, content)
        return current

    def _answered(self, message: Message, content: _Content, future: "Future[Message]") -> None:
        reply = _reply(message, future)
        with self._arrived:
            self._replies[message.metadata.message_id] = reply
            content.open -= 1
            if not content.open and content is not self._current:
                content.path.unlink()
            self._arrived.notify_all()


def _reply(message: Message, future: "Future[Message]") -> Message:
    error = future.exception()
    if error is None:
        return future.result()
    reasons: dict[type[BaseException], str] = {LostError: LOST_FOR_GOOD, NobodyError: NOBODY, EndedError: ENDED}
    reason = reasons.get(type(error), f"{type(error).__name__}: {error}")
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
