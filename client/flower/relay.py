"""Messages from SuperLink to the ClientApp, one after the other, and the replies back.

Loads Flower; import it late.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, Status
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.nodestate import NodeState
from flwr.supernode.start_client_internal import _insert_message
from httpx import HTTPError

from melfed.client.flower.fleet_client import ClinicFleetClient, said
from melfed.client.flower.object_store import FileObjectStore
from melfed.common.errors import DeclinedError, MelfedError

SHORTEST_POLL, LONGEST_POLL, POLL_SHARE = 0.3, 2.0, 0.1
"""How long until the next message is asked for: this share of the time since the last one, within these limits.

A clinic that waits for a slower one then adds at most a tenth to the round, and asks a tenth as often.
"""

REPLY_POLL = 0.05
"""How often the ClientApp's reply is looked for."""

RUN_CHECK_SECONDS = 5.0
"""How often, while a message is worked on, SuperLink is asked whether its run goes on."""

GRACE_SECONDS = 120.0
"""How long work outlives a Flower run that is over for an unknown reason: a failed one is resumed as another."""

SENDINGS = 5
PUSHES = 2
"""Parts of a reply that are sent at a time."""

Send = Callable[[Message, ObjectTree, float], tuple[set[str], str]]
PushObject = Callable[[int, str, str, bytes], None]
Announce = Callable[[], tuple[set[str], str]]

_log = logging.getLogger(__name__)


@dataclass
class Moments:
    """When (`time.monotonic`) the message in hand was announced, here whole, answered whole, and its reply sent."""

    announced: float
    received: float = 0.0
    answered: float = 0.0
    sent: float = 0.0


class Carrier:
    """Takes the place of two functions of Flower's SuperNode, which would lose messages.

    Args:
        cancel: has the worker stop what it computes for one of Flower's runs.
        check: raises DeclinedError for an app bundle that the clinic has not listed.
    """

    def __init__(self, cancel: Callable[[int], object], check: Callable[[bytes], None]) -> None:
        self.cancel, self.check = cancel, check
        self.client: ClinicFleetClient | None = None
        self._message: Message | None = None
        self._moments = Moments(time.monotonic())
        self._last_message = time.monotonic()

    def idle(self, _seconds: float) -> None:
        """Wait until the next message is asked for."""
        wait = POLL_SHARE * (time.monotonic() - self._last_message)
        time.sleep(min(max(wait, SHORTEST_POLL), LONGEST_POLL))

    def pull(self, flower: Callable[..., int | None], **parts: Any) -> int | None:
        """Fetch the next message; return its Flower run, or None. One that does not arrive whole is answered so.

        Args:
            flower: Flower's own function.
            parts: its arguments.
        """
        receive, get_fab, self._message = parts["receive"], parts["get_fab"], None
        state, store = parts["state"], parts["object_store"]

        def noted() -> Any:
            received = receive()
            if received is not None:
                self._message = received[0]
                self._moments = Moments(time.monotonic())
            return received

        def checked(*asked: Any) -> Any:
            fab = get_fab(*asked)
            # Here, and not only in the process that would run it: Flower unpacks it to read its settings.
            self.check(fab.content)
            return fab

        error = Error(ErrorCode.CLIENT_APP_CRASHED, "the request did not arrive whole; ask again")
        run: int | None = None
        try:
            run = flower(**(parts | {"receive": noted, "get_fab": checked}))
        except DeclinedError as declined:
            error = Error(ErrorCode.INVALID_FAB, str(declined))
        message: Message | None = self._message
        self._moments.received = time.monotonic()
        if run is not None or message is None:
            return run
        _insert_message(Message(error, reply_to=message), state, store)
        return int(message.metadata.run_id)

    def push(self, state: NodeState, object_store: ObjectStore, send: Send, push_object: PushObject) -> None:
        """Wait for the reply to the message in hand; send it, and others left over from before."""
        message = self._message
        assert message is not None  # noqa: S101 (Flower pulls before it pushes)
        identifier = message.metadata.message_id
        answered: set[str] = set()
        while identifier not in answered:
            replies = self._replies(message, state, object_store)
            if not replies:
                break
            for reply in replies:
                if self._deliver(reply, state, object_store, send, push_object):
                    answered.add(reply.metadata.reply_to_message_id)
        state.delete_messages(message_ids=[identifier, *answered])
        object_store.delete(identifier)
        self._last_message = time.monotonic()

    def _replies(self, message: Message, state: NodeState, store: ObjectStore) -> Sequence[Message]:
        """Wait for replies; return none where nobody waits for that to this message any more."""
        asked = message.metadata
        next_check = time.monotonic() + RUN_CHECK_SECONDS
        while not (replies := state.get_messages_legacy(is_reply=True)):
            if not _worked_on(state, asked.run_id) and not (replies := state.get_messages_legacy(is_reply=True)):
                error = Error(ErrorCode.CLIENT_APP_CRASHED, "the ClientApp ended without a reply; ask again")
                _insert_message(Message(error, reply_to=message), state, store)
                continue
            if replies or time.time() > asked.created_at + asked.ttl:
                break
            if time.monotonic() > next_check:
                if self._run_over(asked.run_id, state.get_node_id()):
                    break
                next_check = time.monotonic() + RUN_CHECK_SECONDS
            time.sleep(REPLY_POLL)
        return replies

    def _run_over(self, run: int, node: int) -> bool:
        """Ask whether a Flower run is over; if it is, have the worker stop what nobody waits for."""
        assert self.client is not None  # noqa: S101 (there is no message without it)
        try:
            over = self.client.ask_run(run, node)
        except HTTPError:
            return False
        if over is None:
            return False
        _log.info("Flower run %d is over; nobody waits for this clinic's reply", run)
        timer = threading.Timer(0.0 if "stopped" in over else GRACE_SECONDS, self._cancel, (run,))
        timer.daemon = True
        timer.start()
        return True

    def _cancel(self, run: int) -> None:
        try:
            self.cancel(run)
        except MelfedError as error:
            _log.warning("work for Flower run %d could not be cancelled: %s", run, error)

    def _deliver(
        self, reply: Message, state: NodeState, store: ObjectStore, send: Send, push_object: PushObject
    ) -> bool:
        """Send a reply; return False where the ClientApp ended before it had handed over all of it."""
        identifier, run = reply.metadata.message_id, reply.metadata.run_id
        tree = store.get_object_tree(identifier)
        try:
            if not _arrived(tree, state, store, run):
                return False
            self._moments.answered = time.monotonic()
            asked = reply.metadata.reply_to_message_id
            seconds = 0.0 if reply.has_error() else state.get_message_processing_duration(asked)
            self._forward(reply, store, partial(send, reply, tree, seconds), partial(push_object, run))
        finally:
            state.delete_messages(message_ids=[identifier])
            store.delete(identifier)
        return True

    def _forward(
        self, reply: Message, store: ObjectStore, announce: Announce, push_object: Callable[[str, str, bytes], None]
    ) -> None:
        run = reply.metadata.run_id
        try:
            taken = _send(lambda part: store.get(part) or b"", announce, push_object)
            _log.info("reply %s in Flower run %d", "sent" if taken else "not taken", run)
            self._moments.sent = time.monotonic()
            asked = reply.metadata.reply_to_message_id
            if self._message is not None and asked == self._message.metadata.message_id:
                _log.info("%s", timing(self._message, self._moments))
        except RunNotRunningException:
            _log.info("Flower run %d is over; reply not sent", run)
        except HTTPError as error:
            _log.error("reply in Flower run %d not taken: %s", run, said(error))


def timing(message: Message, moments: Moments) -> str:
    """Return where the time of one message has gone, milliseconds: the request's way, the answer, the reply's way."""
    asked = message.metadata
    parts = (moments.announced, moments.received, moments.answered, moments.sent)
    request, answer, reply = (round(1000 * (after - before)) for before, after in pairwise(parts))
    where = f"run={asked.run_id} round={asked.group_id} kind={asked.message_type}"
    return f"timing supernode {where} request={request} answer={answer} reply={reply}"


def _send(content: Callable[[str], bytes], announce: Announce, push_object: Callable[[str, str, bytes], None]) -> bool:
    """Announce a reply and send what SuperLink lacks of it, however long the line is broken; return whether it has all.

    SuperLink refuses a part that had arrived before the line broke, and all parts some minutes later. The server may
    wait for the rest already, so that is sent too before the reply is announced anew. A part is read when it is sent.
    """
    for _ in range(SENDINGS):
        missing, session = announce()
        refused: list[str] = []

        def push(session: str, refused: list[str], identifier: str) -> None:
            try:
                push_object(session, identifier, content(identifier))
            except ObjectPushError:
                refused.append(identifier)

        pool = ThreadPoolExecutor(PUSHES, "push")
        try:
            for _done in pool.map(partial(push, session, refused), missing):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        if not refused:
            return True
    return False


def _arrived(tree: ObjectTree, state: NodeState, store: ObjectStore, run: int) -> bool:
    """Wait until the ClientApp has handed over all parts of its reply; False: it ended before."""
    identifiers = [part.object_id for part in iterate_object_tree(tree)]
    while True:
        ended = not _worked_on(state, run)
        if store.holds(identifiers) if isinstance(store, FileObjectStore) else all(map(store.get, identifiers)):
            return True
        if ended:
            return False
        time.sleep(REPLY_POLL)


def _worked_on(state: NodeState, run: int) -> bool:
    return bool(state.get_tasks(run_ids=[run], statuses=[Status.PENDING, Status.STARTING, Status.RUNNING]))
