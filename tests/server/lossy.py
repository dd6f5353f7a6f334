"""A Flower grid whose nodes go offline, come back, forget what they were asked, and answer twice, as Flower's do."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from melfed.common import messages
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation import members
from melfed.server.flower import channel as exchange
from tests.server.fakes import Answer, FakeClinic, FakeGrid, Run

Span = tuple[int, int]


@dataclass(frozen=True)
class Trouble:
    """What happens to a node. Time is counted in looks at who is online.

    Attributes:
        away: it is offline from the first look of each span until before the last.
        forgets: its SuperNode is started anew with each return, and knows nothing of earlier requests.
        slow: looks from delivery to answer.
        crashes: so many of its first answers to training are a crashed ClientApp's.
        code: of these.
    """

    away: Sequence[Span] = ()
    forgets: bool = True
    slow: int = 1
    crashes: int = 0
    code: int = ErrorCode.CLIENT_APP_CRASHED


@dataclass
class _Open:
    message: Message
    delivered: int | None = None
    forgotten: bool = False
    answered: bool = False


@dataclass
class _State:
    online: bool = True
    returns: int = 0
    crashes: int = 0
    names: list[str] = field(default_factory=list)


class LossyGrid(FakeGrid):
    """Delivers, loses and forgets messages by each node's trouble."""

    def __init__(
        self,
        clinics: Mapping[int, Callable[[Message], Answer]],
        troubles: Mapping[int, Trouble] | None = None,
        names: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(clinics)
        self.troubles = troubles or {}
        self.names = names or {}
        self.ticks = 0
        self.open: dict[str, _Open] = {}
        self.states = {node: _State() for node in clinics}
        self.hook: Callable[[Message], None] = lambda _message: None

    def trouble(self, node: int) -> Trouble:
        return self.troubles.get(node, Trouble())

    def get_nodes(self) -> list[NodeInfo]:
        self.ticks += 1
        for node in self.clinics:
            state = self.states.setdefault(node, _State())
            online = not any(first <= self.ticks < last for first, last in self.trouble(node).away)
            if online and not state.online:
                state.returns += 1
                if self.trouble(node).forgets:
                    self._forget(node)
            state.online = online
        self._work()
        return [
            NodeInfo(node_id=node, last_activated_at=str(self.states[node].returns), name=self.names.get(node))
            for node in self.clinics
            if self.states[node].online
        ]

    def _forget(self, node: int) -> None:
        for request in self.open.values():
            if request.message.metadata.dst_node_id == node and request.delivered is not None:
                request.forgotten = True

    def _work(self) -> None:
        for identifier, request in self.open.items():
            node = request.message.metadata.dst_node_id
            if not self.states[node].online or request.forgotten or request.answered:
                continue
            if request.delivered is None:
                request.delivered = self.ticks
            if self.ticks - request.delivered >= self.trouble(node).slow:
                request.answered = True
                self._answer(identifier, request.message)

    def _answer(self, identifier: str, message: Message) -> None:
        node = message.metadata.dst_node_id
        trouble, state = self.trouble(node), self.states[node]
        answer: Answer
        if message.metadata.message_type == messages.TRAIN and state.crashes < trouble.crashes:
            state.crashes += 1
            answer = Error(code=trouble.code, reason="ClientApp stopped responding.")
        else:
            answer = self.clinics[node](message)
        if answer is not None:
            self.replies[identifier] = Message(answer, reply_to=message)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            self.hook(message)
            identifier = f"message-{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = identifier
            self.sent.append(message)
            self.open[identifier] = _Open(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return list(self._pulled(list(message_ids)))

    def _pulled(self, message_ids: list[str]) -> Iterator[Message]:
        self.pulls += 1
        for identifier in message_ids:
            request = self.open.get(identifier)
            assert request is not None, "nobody asks twice for what was taken or thrown away"
            if not self.states[request.message.metadata.dst_node_id].online:
                # Whatever there was goes with it, the answer too.
                self.replies.pop(identifier, None)
                del self.open[identifier]
                yield Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason="unavailable"), reply_to=request.message)
            elif identifier in self.replies:
                del self.open[identifier]
                yield self.replies.pop(identifier)


class Audit:
    """An audit log in memory, as strict about fields as the real one."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, object]]] = []

    def record(self, event, **fields) -> None:
        assert set(fields) <= set(event.fields), event
        self.rows.append((event.id, fields))

    def of(self, number: int) -> list[dict[str, object]]:
        return [fields for event, fields in self.rows if event == number]


def quickly(patch: pytest.MonkeyPatch) -> None:
    """Look, and ask again, as often as the loop turns; and do not wait for the disk."""
    patch.setattr(os, "fsync", lambda _descriptor: None)
    for name in ("LOOK_SECONDS", "FIRST_PAUSE_SECONDS"):
        patch.setattr(exchange, name, 0.0)
    patch.setattr(members, "AGAIN_SECONDS", 0.0)


def deployed(path, study: StudyProtocol, grid: FakeGrid, **options) -> Run:
    """A run as in a deployment."""
    return Run(path, study, grid, **{"deployed": True, "audit": Audit(), "poll_seconds": 0.0, **options})


def counted(clinics: Iterable[FakeClinic], number: int) -> dict[str, int]:
    """How often each clinic was asked to train in a round."""
    return {clinic.name: clinic.asked.count((messages.TRAIN, number)) for clinic in clinics}
