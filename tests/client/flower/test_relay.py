"""What the SuperNode does with messages: none is lost, and none is worked on that nobody waits for."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.client.superlink import free_port, until, write_kit


@pytest.fixture
def kit(tmp_path: Path) -> Any:
    return write_kit(tmp_path, [], free_port())


def test_the_longer_there_was_no_message_the_seldomer_one_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from melfed.client.flower import relay as carrier

    slept: list[float] = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        carrier, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: clock.now, time=time.time)
    )
    made = carrier.Carrier(lambda _: None, lambda _: None)
    for clock.now in (0.0, 2.0, 10.0, 60.0):
        made.idle(3)
    assert slept == [carrier.SHORTEST_POLL, carrier.SHORTEST_POLL, 1.0, carrier.LONGEST_POLL]


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
    from melfed.client.flower.relay import _send

    far = Parts("a", "b", "c", "d")
    far.lose = {"a"}  # stored, but its answer was lost; the repetition is refused
    assert _send(lambda _: b"", far.announce, far.push)
    assert not far.missing
    assert far.announced == 2


def test_a_reply_is_announced_anew_after_its_session_is_over() -> None:
    from melfed.client.flower.relay import SENDINGS, _send

    far = Parts("a", "b")
    far.refuse_all = 2
    assert _send(lambda _: b"", far.announce, far.push)
    assert not far.missing
    far = Parts("a", "b")
    far.refuse_all = 1000
    assert not _send(lambda _: b"", far.announce, far.push)
    assert far.announced == SENDINGS


def carrying(ask_run: Callable[[int, int], Any], tasks: bool, ttl: float = 60.0) -> tuple[Any, Any, list[int]]:
    """A carrier with a message in hand, Flower's state with it, and the runs that were cancelled."""
    from flwr.app import Metadata, RecordDict
    from flwr.app.message import make_message
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    from melfed.client.flower.relay import Carrier

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
    from melfed.client.flower import relay as carrier

    monkeypatch.setattr(carrier, "RUN_CHECK_SECONDS", 0.0)
    made, state, called = carrying(lambda run, node: words if (run, node) == (5, 7) else None, tasks=True)
    made.push(state, state.object_store, nothing_sent, nothing_sent)
    assert not state.msg_store
    time.sleep(0.2)
    assert called == cancelled


def test_a_failed_runs_work_is_cancelled_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    from melfed.client.flower import relay as carrier

    monkeypatch.setattr(carrier, "RUN_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(carrier, "GRACE_SECONDS", 0.05)
    made, state, called = carrying(lambda *_: "", tasks=True)
    made.push(state, state.object_store, nothing_sent, nothing_sent)
    until(lambda: called == [5], 60)


def test_a_line_that_is_down_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from melfed.client.flower import relay as carrier

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

    from melfed.client.flower.compatibility import check_bundle

    kit.messenger_state.mkdir(mode=0o700, parents=True)
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
