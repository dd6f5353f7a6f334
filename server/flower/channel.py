"""What the server asks of clinics and what they answer, in Flower's messages: the rounds' channel to the clinics.

The other end is `melfed.client.flower.client_app`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from melfed.common.export.signature import Signed
from melfed.common.messages import DECLINED, MESSAGE_VERSION, MODEL, PACKED, REFUSED, REQUEST, TENSORS, pack, unpack
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.channel import OFFLINE, Asker, Content, Node, RequestTerms, Sent, one_line
from melfed.server.runs.outcome import LATE

__all__ = [
    "ATTEMPTS",
    "OFFLINE",
    "FlowerChannel",
    "Reply",
    "RequestTerms",
    "ask",
    "one_line",
    "online",
    "request",
]

ATTEMPTS = 3
"""So often may a ClientApp raise before its clinic has failed."""
LOOK_SECONDS = 2.0
"""Between two looks at who is online."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 120.0
"""From a node's loss until it is asked again; twice as long each time."""
REMINDER = 1 / 3
"""After this part of the deadline without a word, an online node is sent the request again."""
SLACK_SECONDS = 1.0
"""A message lives so much longer than its round, so that at the deadline an answer can still be pulled."""
LOST = frozenset(
    {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)
"""What Flower's infrastructure says in a node's place: the first three the SuperLink, the last the SuperNode."""


@dataclass(frozen=True)
class Reply:
    """One clinic's answer; see `melfed.server.federation.channel.Reply`."""

    node: int
    content: RecordDict
    error: str | None
    size: int
    declined: str | None = None
    silent: bool = False

    def arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return a record of arrays by its name; empty where the reply lacks it. Raises TensorError."""
        found = self.content.get(name)  # not by `array_records`, which goes through all records at each call
        return unpack(name, found if isinstance(found, ArrayRecord) else {})

    def number(self, record: str, key: str) -> float:
        """Return a metric; NaN where the reply lacks it."""
        found = self.content.get(record)
        value = found.get(key, math.nan) if isinstance(found, MetricRecord) else math.nan
        return float(value) if isinstance(value, int | float) else math.nan

    def text(self, record: str, key: str) -> str:
        """Return a setting as text; empty where the reply lacks it."""
        found = self.content.get(record)
        return str(found.get(key, "")) if isinstance(found, ConfigRecord) else ""


class MessageGrid(Protocol):
    """What is needed of Flower's `Grid`, which says more of each."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes that are online."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their identities."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to some messages that have arrived."""


def request(
    round_number: int, study: StudyProtocol, run: str, tensors: Sent | None = None, *, counts: bool = True
) -> RecordDict:
    """Return the content of a request to clinics.

    Args:
        round_number: 0 before the first round.
        study: travels in whole, but for the path of its weights, so that a clinic knows what its approval is of.
        run: the run's identity, for the clinics' ledgers.
        tensors: the global model.
        counts: whether a clinic that describes itself is to tell its counts, which a private study's clinics pay for.
    """
    told = study.model_copy(update={"model": study.model.model_copy(update={"weights": None})})
    words = {"digest": study.digest, "run": run, "study": told.model_dump_json()}
    numbers = {"round": round_number, "protocol": MESSAGE_VERSION, "counts": counts}
    content = RecordDict({REQUEST: ConfigRecord({**numbers, **words})})
    if tensors is not None:
        content[TENSORS] = _record(pack(tensors))
    return content


def _record(packed: dict[str, Any]) -> ArrayRecord:
    """Return the record of an array that may be a file in memory: Flower makes one of bytes alone, and a copy of it."""
    record = ArrayRecord({PACKED: Array(**(packed | {"data": b""}))})
    record[PACKED].data = packed["data"]
    return record


def size(content: RecordDict) -> int:
    """Return the bytes of a message's arrays; the few numbers and names beside them are left out."""
    return sum(record.count_bytes() for record in content.values() if isinstance(record, ArrayRecord))


def online(grid: MessageGrid) -> dict[int, Node]:
    """Return the nodes that are online, by their id."""
    return {info.node_id: Node(info.name, info.last_activated_at) for info in grid.get_nodes()}


class FlowerChannel:
    """A `melfed.server.federation.channel.Channel` over Flower's grid."""

    def __init__(self, grid: MessageGrid) -> None:
        self.grid = grid

    def request(
        self, round_number: int, study: StudyProtocol, run: str, tensors: Sent | None = None, *, counts: bool = True
    ) -> RecordDict:
        """Return a request's content; see `request`."""
        return request(round_number, study, run, tensors, counts=counts)

    def delivery(self, study: StudyProtocol, run: str, tensors: Sent, facts: str, signed: Signed) -> RecordDict:
        """Return the content of a request to keep a finished model."""
        content = request(study.federation.rounds, study, run, tensors)
        content[MODEL] = ConfigRecord(
            {"facts": facts, "signature": signed.signature, "certificate": signed.certificate}
        )
        return content

    def size(self, content: Content) -> int:
        """Return the bytes of a request's arrays."""
        return size(cast(RecordDict, content))

    def online(self) -> dict[int, Node]:
        """Return the nodes that are online, by their id."""
        return online(self.grid)

    def ask(
        self,
        kind: str,
        nodes: Mapping[int, str],
        content: Content,
        terms: RequestTerms,
        asker: Asker,
        away: Mapping[int, float] | None = None,
    ) -> Iterator[Reply]:
        """Ask nodes; see `ask`."""
        return ask(self.grid, kind, nodes, cast(RecordDict, content), terms, asker, away)


def ask(
    grid: MessageGrid,
    kind: str,
    nodes: Mapping[int, str],
    content: RecordDict,
    terms: RequestTerms,
    asker: Asker,
    away: Mapping[int, float] | None = None,
) -> Iterator[Reply]:
    """Send one request to several nodes and yield their replies as they arrive: one a node, never more.

    What Flower's infrastructure says for a node (offline, its process died, message expired) is no answer: with
    `terms.again` the node counts as lost, and gets the request again once it is online, after a pause that doubles each
    time. A ClientApp that raises has `ATTEMPTS`. It ends when every node has answered or failed for good; or when there
    are enough answers and whoever is missing has been lost for the grace period; or at the deadline. Nodes without an
    answer are yielded last, with an error.

    Errors that Flower's own infrastructure makes carry no useful sender, so replies are matched by the message they
    answer. Of several attempts the first answer is taken, whichever it belongs to.

    Args:
        grid: Flower's.
        kind: the message's type.
        nodes: whom to ask, in this order.
        content: of the message.
        terms: how long, and how often.
        asker: see there.
        away: of these nodes that were lost before: since when (`time.monotonic`).
    """
    errands = _Errands(grid, kind, content, terms, asker)
    errands.look()
    for node in nodes:
        errands.begin(node, (away or {}).get(node))
    while errands.open:
        yield from errands.collect()
        if errands.over():
            break
        asker.wait()
        errands.look()
    yield from errands.given_up()


@dataclass
class _Errand:
    """One node's request. It is lost from an error of its last attempt, or from its node's absence, to the next."""

    attempts: set[str] = field(default_factory=set)
    last: str = ""
    lost_since: float | None = None
    reason: str = ""
    losses: int = 0
    raised: int = 0
    next_try: float = 0.0
    sent: float = 0.0
    since: str = ""


class _Errands:
    """The requests that are still open."""

    def __init__(self, grid: MessageGrid, kind: str, content: RecordDict, terms: RequestTerms, asker: Asker) -> None:
        self.grid, self.kind, self.content, self.terms, self.asker = grid, kind, content, terms, asker
        self.group = str(content.config_records[REQUEST]["round"])
        self.started = monotonic()
        self.looked = -math.inf
        self.open: dict[int, _Errand] = {}
        self.senders: dict[str, int] = {}
        """Whose each attempt is; kept, so that a poll does not go through every node that is open."""
        self.nodes: dict[int, Node] | None = None

    def begin(self, node: int, away: float | None) -> None:
        """Open one node's request, and send it unless the node is offline."""
        errand = self.open[node] = _Errand()
        if self.nodes is not None and node not in self.nodes:
            # Whoever was lost before is not told of again.
            errand.reason, errand.lost_since = OFFLINE, away
            self._lose(node, errand, OFFLINE)
        else:
            self._send(node, errand)

    def collect(self) -> Iterator[Reply]:
        """Yield what has arrived."""
        # Whatever waits for a node that is offline, Flower throws away when it is asked for.
        asked = list(self.senders if self.nodes is None else (a for a, n in self.senders.items() if n in self.nodes))
        messages = list(self.grid.pull_messages(asked)) if asked else []
        while messages:
            message = messages.pop(0)  # whoever has taken a reply lets go of it, and so does this
            attempt = message.metadata.reply_to_message_id
            node = self.senders.get(attempt)
            if node is None:
                continue
            reply = self._failed(node, attempt, message.error) if message.has_error() else _reply(node, message)
            if reply is not None:
                errand = self.open.pop(node)
                for other in errand.attempts:
                    self.senders.pop(other, None)
                if errand.lost_since is not None and self.terms.again:
                    self.asker.returned(node)  # an earlier attempt's answer
                yield reply

    def over(self) -> bool:
        """Tell whether nobody else is waited for."""
        if not self.open or self._left() <= 0:
            return True
        if any(errand.lost_since is None for errand in self.open.values()):
            return False
        if not self.terms.again:
            return True
        lost = [errand.lost_since for errand in self.open.values() if errand.lost_since is not None]
        return monotonic() - max(lost) >= self.terms.grace and self.asker.enough()

    def look(self) -> None:
        """See who is online, every few seconds: whoever is not is lost, and whoever is back is asked again."""
        now = monotonic()
        if not self.terms.again or now - self.looked < LOOK_SECONDS:
            return
        self.looked, self.nodes = now, online(self.grid)
        for node, errand in self.open.items():
            found = self.nodes.get(node)
            if found is None:
                self._lose(node, errand, OFFLINE)
                continue
            if errand.lost_since is None and errand.since != found.since:
                self._lose(node, errand, "it was away for a moment, or its SuperNode was started anew")
            if errand.lost_since is None:
                # A SuperNode that fails to fetch a message says nothing and forgets it.
                if now - errand.sent > self.terms.seconds * REMINDER:
                    self._send(node, errand)
            elif now >= errand.next_try and self._send(node, errand):
                self.asker.returned(node)

    def given_up(self) -> Iterator[Reply]:
        """Yield an error for every node that is still missing; those that are lost first."""
        lost = {node: errand for node, errand in self.open.items() if errand.lost_since is not None}
        for node, errand in lost.items():
            yield Reply(node, RecordDict(), errand.reason, 0, silent=True)
        for node in [node for node in self.open if node not in lost]:
            yield Reply(node, RecordDict(), f"{LATE} {self.terms.seconds:g} s", 0, silent=True)
        self.open.clear()

    def _left(self) -> float:
        return self.terms.seconds - (monotonic() - self.started)

    def _send(self, node: int, errand: _Errand) -> bool:
        # Each message holds the same record, so that a large model is in memory once.
        message = Message(
            self.content,
            dst_node_id=node,
            message_type=self.kind,
            group_id=self.group,
            ttl=max(self._left(), 0.0) + SLACK_SECONDS,
        )
        # One at a time: of several, Flower does not always tell which could not be sent.
        attempt = next(iter(self.grid.push_messages([message])), None)
        if not attempt:
            self._lose(node, errand, "Flower could not send the request to it")
            return False
        errand.attempts.add(attempt)
        self.senders[attempt] = node
        errand.last, errand.lost_since = attempt, None
        errand.sent = monotonic()
        errand.since = self.nodes[node].since if self.nodes else ""
        return True

    def _failed(self, node: int, attempt: str, error: Error) -> Reply | None:
        """Take an error for an answer where it is final; else, of the last attempt, its node is lost."""
        errand = self.open[node]
        errand.attempts.discard(attempt)
        self.senders.pop(attempt, None)
        reason = OFFLINE if error.code == ErrorCode.NODE_UNAVAILABLE else str(error.reason or "unknown error")
        errand.raised += error.code not in LOST
        if not self.terms.again or error.code == ErrorCode.INVALID_FAB or errand.raised >= ATTEMPTS:
            return Reply(node, RecordDict(), reason, 0)
        # An earlier attempt may be one that a SuperNode has forgotten since: nobody may wait for it alone.
        if attempt == errand.last:
            self._lose(node, errand, reason)
        return None

    def _lose(self, node: int, errand: _Errand, reason: str) -> None:
        """Count a node as lost, and put off its next attempt; whoever is lost already is not told of again."""
        now = monotonic()
        if errand.lost_since is not None and reason == OFFLINE:
            return
        errand.next_try = now + min(FIRST_PAUSE_SECONDS * 2**errand.losses, LONGEST_PAUSE_SECONDS)
        errand.losses += 1
        if errand.lost_since is None:
            errand.lost_since, errand.reason = now, reason
            if self.terms.again:
                self.asker.lost(node, reason)


def _reply(node: int, message: Message) -> Reply:
    content = message.content
    reasons = [_reason(content, kind) for kind in (REFUSED, DECLINED)]
    return Reply(node, content, reasons[0], size(content), reasons[1])


def _reason(content: RecordDict, kind: str) -> str | None:
    record = content.get(kind)
    return str(record.get("reason") or f"{kind} without a reason") if isinstance(record, ConfigRecord) else None
