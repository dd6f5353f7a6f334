"""What a process of the local engine answers, and what it tells of errors."""

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from melfed.simulations.engine import local_worker


def question(ttl: float) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(RecordDict(), dst_node_id=1, message_type="train", group_id="1", ttl=ttl)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(pickle.dumps(RecordDict()))
    local_worker._content.cache_clear()
    return path


def test_a_request_that_came_too_late_is_not_worked_on(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = question(ttl=60.0)
    monkeypatch.setattr(local_worker.time, "time", lambda: message.metadata.created_at + 61)
    monkeypatch.setattr(local_worker, "_app", lambda _workspace: pytest.fail("was worked on"))
    assert local_worker.answer(content.parent, message, content, 0).error.reason == "the request has expired"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory (MemoryError: Unable to allocate 3 GiB); allow the"),
    ],
)
def test_what_the_clientapp_raises_is_told_in_a_line(
    error: Exception, reason: str, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_message: Message, _context: object) -> Message:
        raise error

    monkeypatch.setattr(local_worker, "_app", lambda _workspace: fail)
    told = local_worker.answer(content.parent, question(ttl=60.0), content, 0).error
    assert told.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert told.reason.startswith(reason)
    assert "\n" not in told.reason


@pytest.fixture
def as_before() -> Iterator[None]:
    """What `begin` changes of a process comes back."""
    streams, handler = [os.dup(number) for number in (1, 2)], signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)


class Parent:
    """A parent process that ends when its event is set."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.join = self.ended.wait


@pytest.mark.usefixtures("as_before")
def test_a_begun_process_is_quiet_and_ends_with_its_parent_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, left, codes = Parent(), threading.Semaphore(0), list[int]()
    monkeypatch.setattr(local_worker.multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(local_worker.os, "_exit", lambda code: (codes.append(code), left.release()))
    local_worker.begin(tmp_path)
    os.write(1, b"to stdout\n")
    os.write(2, b"to stderr\n")
    log = tmp_path / local_worker.LOG
    assert log.read_text() == "to stdout\nto stderr\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    local_worker.begin(tmp_path)
    os.write(1, b"the next\n")
    assert log.read_text().endswith("to stderr\nthe next\n"), "processes share it"
    assert codes == []
    parent.ended.set()
    # Both have to be heard before os._exit is itself again.
    assert all(left.acquire(timeout=60.0) for _ in range(2))
    assert set(codes) == {1}


def test_the_clientapp_gets_the_content_and_the_partition(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content.write_bytes(pickle.dumps(RecordDict({"request": ConfigRecord({"round": 4})})))
    message = question(ttl=60.0)

    def echo(asked: Message, context: Context) -> Message:
        here = ConfigRecord({"round": asked.content.config_records["request"]["round"], **context.node_config})
        return Message(RecordDict({"here": here}), reply_to=asked)

    monkeypatch.setattr(local_worker, "_app", lambda workspace: echo if workspace == content.parent else None)
    reply = local_worker.answer(content.parent, message, content, 7)
    assert dict(reply.content.config_records["here"]) == {"round": 4, "partition-id": 7}
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
