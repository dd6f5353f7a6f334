"""Replies of clinics that send too much, too little, or something else: each becomes one refusal, and in time."""

import json
import mmap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as Header
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from httpx import ConnectError

from melfed.common.process.object_folder import ObjectFolder
from melfed.server.flower import reply_fetcher as reception
from melfed.server.flower.object_files import object_folder
from melfed.server.flower.reply_fetcher import Reception, UnreadableError, readable, received
from tests.server.fakes import FakeGrid

RUN, NODE = 7, 42


@dataclass
class Runtime:
    """SuperLink, as the grid's client shows it."""

    waiting: dict[str, tuple[Header, ObjectTree]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    inquiries: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    broken: bool = False

    folder: ObjectFolder | None = None

    def add(self, message: Message, asked: str, tree: ObjectTree | None = None) -> None:
        """A reply arrives, which SuperLink knows to be the node's and to this request."""
        header = Header(metadata=metadata_to_proto(message.metadata))
        header.metadata.reply_to_message_id, header.metadata.src_node_id = asked, NODE
        self.waiting[asked] = (header, tree or get_object_tree(message))
        for identifier, part in get_all_nested_objects(message).items():
            if self.folder is None:
                self.parts[identifier] = part.deflate()
            else:
                self.folder.put(identifier, part.deflate())

    def PullMessages(self, request: Any) -> Any:
        self.inquiries += request.message_ids
        found = [self.waiting.pop(asked) for asked in request.message_ids if asked in self.waiting]
        return SimpleNamespace(messages_list=[h for h, _ in found], message_object_trees=[t for _, t in found])

    def PullObject(self, request: Any) -> Any:
        if self.broken:
            raise ConnectError("gone")
        self.asked.append(request.object_id)
        content = self.parts.get(request.object_id)
        there = content is not None or request.object_id in self.announced
        return SimpleNamespace(object_found=there, object_available=bool(content), object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.forgotten.append(request.message_object_id)


class Grid(HttpGrid):
    def __init__(self) -> None:
        super().__init__(token="t")
        self.runtime, self.sent = Runtime(), []

    @property
    def _runtime_client(self) -> Any:
        return self.runtime

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=RUN)

    def push_messages(self, messages: Any) -> list[str]:
        self.sent += messages
        return ["id"] * len(messages)


def message_of(content: RecordDict | Error, seconds: float = 60.0) -> Message:
    asked = Message(RecordDict(), dst_node_id=NODE, message_type="train", ttl=seconds)
    asked.metadata.__dict__.update(_run_id=RUN, _message_id="forged", _src_node_id=1)
    return Message(content, reply_to=asked)


def tensors(*arrays: np.ndarray) -> RecordDict:
    return RecordDict({"tensors": ArrayRecord({f"w{i}": Array(array) for i, array in enumerate(arrays)})})


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, RUN)


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grid]:
    monkeypatch.setattr(reception, "ROOM_BYTES", 2**20)
    monkeypatch.setattr(reception, "FIRST_PAUSE", 0.01)
    yield Grid()
    for thread in threading.enumerate():
        if thread.name == "reply":
            thread.join(5)
            assert not thread.is_alive()


def reply(there: Reception, asked: str = "a", seconds: float = 5.0) -> Message:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := there.pull_messages([asked]):
            assert len(found) == 1
            return found[0]
    raise AssertionError("no reply")


@pytest.fixture
def folder(tmp_path: Path) -> ObjectFolder:
    """SuperLink's folder of objects."""
    made = object_folder(tmp_path)
    made.make()
    return made


def refusal(message: Message) -> str:
    return str(message.content.config_records["refused"]["reason"])


def test_a_reply_is_what_was_sent_by_whom_superlink_says_to_what_it_says(grid):
    """A message's own word for its sender and request does not count."""
    grid.runtime.add(message_of(tensors(np.arange(5.0), np.zeros((2, 3)))), "a")
    message = reply(Reception(grid))
    assert message.metadata.reply_to_message_id == "a"
    assert message.metadata.src_node_id == NODE
    assert (message.content["tensors"]["w0"].numpy() == np.arange(5.0)).all()
    assert len(grid.runtime.forgotten) == 1


def test_superlink_is_not_asked_again_for_a_reply_that_is_being_fetched(grid, monkeypatch):
    """It would say then that there is no such message, and the clinic would be asked again, for ever."""
    monkeypatch.setattr(reception, "SOON_SECONDS", 0.01)
    sent = message_of(tensors(np.zeros(3)))
    grid.runtime.add(sent, "a")
    late = dict(grid.runtime.parts)
    grid.runtime.announced, grid.runtime.parts = set(late), {}
    there = Reception(grid)
    for _ in range(3):
        assert there.pull_messages(["a", "b"]) == []
    assert grid.runtime.inquiries == ["a", "b", "b", "b"]
    grid.runtime.parts = late
    assert reply(there).has_content()
    assert grid.runtime.inquiries.count("a") == 1


def test_a_reply_is_returned_once_and_at_once(grid):
    grid.runtime.add(message_of(tensors(np.zeros(3))), "a")
    there = Reception(grid)
    assert len(there.pull_messages(["b", "a"])) == 1
    assert there.pull_messages(["b", "a"]) == []


def test_an_error_of_the_infrastructure_passes(grid):
    grid.runtime.add(message_of(Error(ErrorCode.NODE_UNAVAILABLE, "offline")), "a")
    message = reply(Reception(grid))
    assert (message.error.code, message.error.reason) == (ErrorCode.NODE_UNAVAILABLE, "offline")


def test_nobody_waits_for_a_clinic_that_announces_and_does_not_send(grid):
    """The other's reply comes at once; the silent one's is an error once its message has expired."""
    silent, good = message_of(tensors(np.zeros(3)), seconds=1.0), message_of(tensors(np.ones(3)))
    grid.runtime.add(silent, "a")
    grid.runtime.announced = set(grid.runtime.parts)
    grid.runtime.parts.clear()
    grid.runtime.add(good, "b")
    there, began = Reception(grid), time.monotonic()
    assert [m.metadata.reply_to_message_id for m in there.pull_messages(["a", "b"])] == ["b"]
    assert time.monotonic() - began < 0.8
    message = reply(there, "a")
    assert message.error.code == ErrorCode.MESSAGE_UNAVAILABLE


def test_a_slow_clinics_parts_are_waited_for(grid):
    grid.runtime.add(message_of(tensors(np.arange(3.0))), "a")
    parts, grid.runtime.announced = dict(grid.runtime.parts), set(grid.runtime.parts)
    grid.runtime.parts.clear()
    there = Reception(grid)
    assert there.pull_messages(["a"]) == []
    for identifier, part in parts.items():
        grid.runtime.parts[identifier] = part
        time.sleep(0.02)
    assert (reply(there).content["tensors"]["w0"].numpy() == np.arange(3.0)).all()


@pytest.mark.parametrize("broken", [True, False])
def test_a_reply_whose_parts_are_gone_is_asked_for_again(grid, broken):
    grid.runtime.add(message_of(tensors(np.zeros(3))), "a")
    grid.runtime.parts.clear()
    grid.runtime.broken = broken
    assert reply(Reception(grid)).error.code == ErrorCode.MESSAGE_UNAVAILABLE


def test_what_is_larger_than_a_reply_may_be_is_not_even_fetched(grid):
    random = np.random.default_rng(0)
    there = Reception(grid)
    grid.runtime.add(message_of(tensors(*(random.random(2**15) for _ in range(40)))), "a")
    assert refusal(reply(there)) == "its reply is larger than 1 MiB"
    taken = sum(len(grid.runtime.parts[part]) for part in grid.runtime.asked)
    assert taken < 2**20 + 2**19
    assert len(grid.runtime.forgotten) == 1


def test_the_model_that_was_sent_says_how_large_a_reply_may_be(grid):
    random = np.random.default_rng(0)
    there = Reception(grid)
    sent = Message(tensors(*(random.random(2**15) for _ in range(40))), dst_node_id=NODE, message_type="train")
    assert list(there.push_messages(iter([sent]))) == ["id"]
    assert grid.sent == [sent]
    grid.runtime.add(message_of(tensors(*(random.random(2**15) for _ in range(40)))), "a")
    assert len(reply(there).content["tensors"]) == 40


def test_whoever_holds_back_the_first_part_cannot_have_the_rest_pile_up(grid):
    """Were parts waited for in order, SuperLink would store all others until the message expires."""
    random = np.random.default_rng(0)
    message = message_of(tensors(*(random.random(2**15) for _ in range(40))))
    grid.runtime.add(message, "a")
    grid.runtime.announced = {message.object_id}
    del grid.runtime.parts[message.object_id]
    assert refusal(reply(Reception(grid))) == "its reply is larger than 1 MiB"


@pytest.mark.parametrize("where", ["array", "record"])
def test_a_small_reply_that_unfolds_into_a_large_one_is_not_unfolded(where):
    """One chunk that is in an array ten thousand times, or one array that has as many names."""
    message = message_of(tensors(np.zeros(1000)))
    objects = get_all_nested_objects(message)
    parts = {identifier: part.deflate() for identifier, part in objects.items()}
    kind = {"array": Array, "record": ArrayRecord}[where]
    (identifier,) = (identifier for identifier, part in objects.items() if isinstance(part, kind))
    head, _, body = parts[identifier].partition(b"\0")
    content = json.loads(body)
    if where == "array":
        content["arraychunk_ids"] = [0] * 10_000
    else:
        content = {f"w{i}": content["w0"] for i in range(10_000)}
    parts[identifier] = add_header_to_object_body(json.dumps(content).encode(), objects[identifier])
    assert head.split()[0] == parts[identifier].split()[0]
    with pytest.raises(UnreadableError, match="larger than 1 MiB"):
        readable(message.object_id, parts, 2**20)
    readable(message.object_id, parts, 2**30)


def test_tensors_of_zeros_whose_chunks_are_the_same_are_whole(grid):
    """An honest array may hold one chunk several times."""
    there = Reception(grid)
    zeros = np.zeros(3 * 2**20)
    there.push_messages([Message(tensors(zeros), dst_node_id=NODE, message_type="train")])
    grid.runtime.add(message_of(tensors(zeros)), "a")
    assert len(grid.runtime.parts) < 8
    assert (reply(there).content["tensors"]["w0"].numpy() == zeros).all()


@pytest.mark.parametrize("what", ["another kind", "bytes", "a record in place of content", "nothing"])
def test_what_is_no_message_is_refused_in_words(grid, what):
    message = message_of(tensors(np.zeros(3)))
    tree = get_object_tree(message)
    record = ConfigRecord({"no": "message"})
    if what == "another kind":
        tree = ObjectTree(object_id=record.object_id)
    grid.runtime.add(message, "a", tree)
    grid.runtime.parts[record.object_id] = record.deflate()
    if what == "bytes":
        grid.runtime.parts[message.object_id] = b"\xff\xfe no head"
    elif what == "nothing":
        tree.ClearField("children")
    elif what == "a record in place of content":
        head = grid.runtime.parts[message.object_id]
        grid.runtime.parts[message.object_id] = head.replace(
            message.content.object_id.encode(), record.object_id.encode()
        )
        tree.children[0].CopyFrom(ObjectTree(object_id=record.object_id))
    assert refusal(reply(Reception(grid))).startswith("it sent no reply that can be read")


def test_late_replies_are_let_go(grid):
    there = Reception(grid)
    grid.runtime.add(message_of(tensors(np.zeros(3)), seconds=0.3), "late")
    grid.runtime.waiting["x"] = grid.runtime.waiting.pop("late")
    there.pull_messages(["x"])
    assert set(there._arrived) == {"late"}
    end = time.monotonic() + 5
    while there._arrived and time.monotonic() < end:
        there.pull_messages([])
    assert not there._arrived


def test_what_is_no_deployment_stays_as_it_is():
    scripted = FakeGrid({})
    assert received(scripted) is scripted
    assert isinstance(received(Grid()), Reception)


def test_one_reply_is_parsed_at_a_time_and_its_parts_are_used_up(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing takes a few times a reply's memory: with all clinics at once, that many times as much."""
    there, now, left = Reception(grid), [0], list[tuple[int, int]]()

    def parse(identifier: str, contents: Any, most: int, folder: Any) -> Message:
        now[0] += 1
        time.sleep(0.02)
        message = readable(identifier, contents, most, folder)
        left.append((now[0], len(contents)))
        now[0] -= 1
        return message

    monkeypatch.setattr(reception, "readable", parse)
    for index, name in enumerate("abc"):
        grid.runtime.add(message_of(tensors(np.full(1000, index))), name)
    found: list[Message] = []
    end = time.monotonic() + 5
    while len(found) < 3 and time.monotonic() < end:
        found += there.pull_messages(["a", "b", "c"])
    assert {int(message.content["tensors"]["w0"].numpy()[0]) for message in found} == {0, 1, 2}
    assert left == [(1, 0)] * 3


def test_parts_are_read_where_superlink_has_them_and_a_large_array_is_not_read_at_all(grid: Grid, folder: ObjectFolder):
    """Chunks of 5 MiB: two whole ones, of which one stands twice, and the rest."""
    grid.runtime.folder = folder
    random = np.random.default_rng(0)
    one, rest = random.bytes(5 << 20), random.bytes(1 << 18)
    content = one + one + rest
    there = Reception(grid, folder)
    packed = Array(dtype="uint8", shape=(len(content),), stype="safetensors", data=content)
    there.push_messages([Message(RecordDict({"tensors": ArrayRecord({"w": packed})}), NODE, "train")])
    sent = RecordDict({"tensors": ArrayRecord({"w": packed}), "few": ArrayRecord({"w": Array(np.arange(3.0))})})
    grid.runtime.add(message_of(sent), "a")
    message = reply(there)
    found = message.content["tensors"]["w"]
    assert isinstance(found.data, memoryview)
    assert isinstance(found.data.obj, mmap.mmap)
    assert (found.data == content, found.stype, found.shape) == (True, "safetensors", (len(content),))
    assert (message.content["few"]["w"].numpy() == np.arange(3.0)).all()
    assert grid.runtime.asked == []
    assert len(grid.runtime.forgotten) == 1
    assert list(folder.handed.iterdir()) == []


def test_parts_that_come_into_the_folder_are_waited_for_and_superlink_is_asked_when_none_comes(
    grid: Grid, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "QUIET_SECONDS", 0.2)
    grid.runtime.add(message_of(tensors(np.arange(3.0))), "a")
    parts, grid.runtime.announced = dict(grid.runtime.parts), set(grid.runtime.parts)
    grid.runtime.parts.clear()
    there = Reception(grid, folder)
    assert there.pull_messages(["a"]) == []
    (last, content), *others = parts.items()
    for identifier, part in others:
        folder.put(identifier, part)
    grid.runtime.parts[last] = content
    assert (reply(there).content["tensors"]["w0"].numpy() == np.arange(3.0)).all()
    assert last in grid.runtime.asked


def test_what_is_in_the_folder_is_bounded_as_well(grid: Grid, folder: ObjectFolder) -> None:
    grid.runtime.folder = folder
    grid.runtime.add(message_of(tensors(np.random.default_rng(0).random(2**18))), "a")
    assert refusal(reply(Reception(grid, folder))) == "its reply is larger than 1 MiB"


def test_a_file_that_is_gone_is_no_fault_of_the_clinics(grid: Grid, folder: ObjectFolder) -> None:
    message = message_of(tensors(np.random.default_rng(0).random(2**15)))
    parts: dict[str, Any] = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    (large,) = (name for name, part in parts.items() if len(part) > 2**16)
    parts[large] = reception.FilePart(parts[large][:100], len(parts[large]))
    with pytest.raises(FileNotFoundError):
        readable(message.object_id, parts, 2**30, folder)


def test_requests_are_left_where_superlink_takes_them_but_for_what_it_has(grid: Grid, folder: ObjectFolder) -> None:
    sent = Message(tensors(np.arange(5.0)), dst_node_id=NODE, message_type="train")
    (known, *others) = get_all_nested_objects(sent)
    folder.put(known, b"it has this")
    left: set[str] = set()

    def push(messages: Any) -> list[str]:
        left.update(path.name for path in folder.handed.iterdir())
        return ["id"] * len(messages)

    grid.push_messages = push  # type: ignore[method-assign]
    assert Reception(grid, folder).push_messages([sent]) == ["id"]
    assert left == set(others)
    assert list(folder.handed.iterdir()) == [], "nobody took them"


def test_superlink_is_asked_when_something_has_come_and_now_and_then(
    grid: Grid, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, stamps = SimpleNamespace(now=100.0), [1]
    monkeypatch.setattr(reception.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(folder, "stamp", lambda: stamps[-1])
    there = Reception(grid, folder)

    def asks(seconds: float) -> bool:
        clock.now += seconds
        before = len(grid.runtime.inquiries)
        there.pull_messages(["a"])
        return len(grid.runtime.inquiries) > before

    assert asks(0.0)
    assert not asks(1.0), "nothing has come"
    stamps.append(2)
    assert asks(0.1)
    stamps.append(3)
    assert not asks(0.1), "too soon"
    assert asks(0.3), "what came meanwhile is not forgotten"
    assert not asks(1.0)
    assert asks(1.0), "an error comes without a file"
