"""Who uses a clinic's key: whether a second holder of it has come, as far as SuperLink's requests show.

What Flower does: of two SuperNodes with one key, the second is refused while the first is online. Where it says goodbye
in the first one's name before, as a clinic that was started anew does, both are online as one, and each message goes to
whichever asks first. A copied kit, a machine that was cloned, a stolen key: all look like that.

What the server sees: each SuperNode of melfed names its process in a header, at random, and polls every few seconds. A
clinic that was started anew is another process, and the one before is not heard of again. Where it is, two live.
"""

import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Final

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import ServerConfigError
from melfed.common.messages import PROCESS_HEADER
from melfed.server.clinics.certificates import key_header
from melfed.server.clinics.registry import read_clinics
from melfed.server.config import ServerConfig

if TYPE_CHECKING:
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
    from flwr.server.superlink.linkstate import LinkState
    from starlette.types import ASGIApp, Receive, Scope, Send

KEY_HEADER: Final = "flwr-public-key"
"""Flower's header with the node's public key (`flwr.supercore.constant.FLEET_HTTP_PUBLIC_KEY_HEADER`)."""
ADDRESS_HEADER: Final = "melfed-address"
"""The edge's header with the address that a connection comes from; it replaces whatever a client sends."""
ALIVE_SECONDS: Final = 60.0
"""A SuperNode that lives is heard of within these: it polls every few seconds."""
AGAIN_SECONDS: Final = 3600.0
"""Between two events about one clinic."""
MOST_PROCESSES: Final = 8
LONGEST: Final = 64
POLLED: Final = frozenset({"/v1/fleet/pull-messages", "/v1/fleet/send-node-heartbeat"})
"""What a SuperNode that is online asks for again and again. The doctor of a clinic asks for neither."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a request comes from.

    Attributes:
        process: what the SuperNode's process calls itself; empty of one that does not say.
        address: of the connection to the edge.
    """

    process: str
    address: str


@dataclass
class _Key:
    """What was heard of one key."""

    last: Source
    heard: dict[str, tuple[float, str]] = field(default_factory=dict)
    told: float | None = None


class KeyHolders:
    """Notices a key that two processes use at a time, from any number of threads.

    Args:
        tell: is given the key, the source that came, the address of the other, and how it showed.
        clock: seconds.
    """

    def __init__(self, tell: Callable[[str, Source, str, str], None], clock: Callable[[], float] = monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._keys: dict[str, _Key] = {}
        self._lock = threading.Lock()

    def polled(self, key: str, source: Source) -> None:
        """Note a request of a SuperNode that is online."""
        with self._lock:
            now = self._clock()
            known = self._keys.setdefault(key, _Key(source))
            before = known.heard.pop(source.process, None)
            known.heard[source.process] = (now, source.address)
            while len(known.heard) > MOST_PROCESSES:
                del known.heard[next(iter(known.heard))]
            other, known.last = known.last, source
            # It was heard of, then another, and now it again: neither has taken the other's place.
            back = other.process != source.process and before is not None and now - before[0] <= ALIVE_SECONDS
            due = back and self._due(known, now)
        if due:
            self._tell(key, source, other.address, "both ask in turn")

    def refused(self, key: str, source: Source) -> None:
        """Note that SuperLink refused to let a SuperNode come online, as another with its key is."""
        with self._lock:
            now = self._clock()
            known = self._keys.get(key)
            alive = known is not None and now - known.heard[known.last.process][0] <= ALIVE_SECONDS
            due = known is not None and alive and known.last.process != source.process and self._due(known, now)
            other = known.last.address if known is not None else ""
        if due:
            self._tell(key, source, other, "refused while the other is online")

    @staticmethod
    def _due(known: _Key, now: float) -> bool:
        if known.told is not None and now - known.told < AGAIN_SECONDS:
            return False
        known.told = now
        return True


ASKING: contextvars.ContextVar[tuple[str, Source] | None] = contextvars.ContextVar("asking", default=None)
"""Key and source of the request that is answered in this context."""


class Watching:
    """A layer of SuperLink's HTTP application that notes whose requests come."""

    def __init__(self, app: "ASGIApp", holders: KeyHolders) -> None:
        self.app, self.holders = app, holders

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on."""
        headers = {name: value for name, value in scope.get("headers", ()) if name in _HEADERS}
        key = _text(headers.get(_HEADERS[0], b""), 400)
        if key:
            source = Source(*(_text(headers.get(name, b"")) for name in _HEADERS[1:]))
            ASKING.set((key, source))
            if scope.get("path") in POLLED:
                self.holders.polled(key, source)
        await self.app(scope, receive, send)


_HEADERS = tuple(name.encode() for name in (KEY_HEADER, PROCESS_HEADER, ADDRESS_HEADER))


def _text(value: bytes, most: int = LONGEST) -> str:
    return "".join(letter for letter in value.decode("latin-1")[:most] if letter.isprintable())


def watch(config: ServerConfig) -> KeyHolders:
    """Return what notices a second holder of a clinic's key, and writes that into the server's audit log.

    SuperLink's own handler of activations is put behind one that sees which of them are refused.
    """
    audit = AuditLog(config.audit_log, "superlink")

    def tell(key: str, source: Source, other: str, how: str) -> None:
        try:
            names = [record.name for record in read_clinics(config.clinics) if key_header(record.node_key) == key]
        except ServerConfigError as error:  # of which the daemon tells
            _log.warning("%s", error)
            return
        for name in names:
            audit.record_or_hold(Event.KEY_USED_TWICE, clinic=name, address=source.address, other=other, how=how)

    holders = KeyHolders(tell)
    _see_refusals(holders)
    return holders


def _see_refusals(holders: KeyHolders) -> None:
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.superlink.servicer.fleet import fleet_handlers

    activate = fleet_handlers.activate_node

    def activate_node(request: "ActivateNodeRequest", state: "LinkState") -> "ActivateNodeResponse":
        try:
            return activate(request=request, state=state)
        except FlowerError as error:
            # Of a key that is registered: the edge lets no other in.
            if error.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED and (asking := ASKING.get()) is not None:
                holders.refused(*asking)
            raise

    vars(fleet_handlers)["activate_node"] = activate_node
