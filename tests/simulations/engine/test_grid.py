"""Flower messages in this process and their way through a pool, without processes."""

import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from melfed.simulations.engine.attempts import EndedError, LostError, NobodyError
from melfed.simulations.engine.grid import NOBODY, REQUESTS, LocalGrid


class FakePool:
    """Keeps what it is given until the test answers it."""

    def __init__(self) -> None:
        self.given: list[tuple[int, Callable[[], Any], Future[Any]]] = []

    def submit(self, partition: int, call: Callable[[], Any]) -> "Future[Any]":
        self.given.append((partition, call, Future()))
        return self.given[-1][2]

    def answer(self, index: int) -> None:
        _, call, future = self.given[index]
        bare = call.args[1]  # type: ignore[attr-defined]
        future.set_result(Message(RecordDict({"x": ArrayRecord()}), reply_to=bare))


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
def grid(pool: FakePool, tmp_path: Path) -> LocalGrid:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return LocalGrid(3, pool, tmp_path)  # type: ignore[arg-type]


def message(content: RecordDict, node: int) -> Message:
    return Message(content, dst_node_id=node, message_type="train", group_id="1", ttl=60.0)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / REQUESTS).iterdir())


def test_all_clinics_are_online_and_each_gets_its_own_message(grid: LocalGrid, pool: FakePool) -> None:
    nodes = [info.node_id for info in grid.get_nodes()]
    content = RecordDict()
    identities = grid.push_messages([message(content, node) for node in nodes])
    assert len(set(identities)) == 3
    assert [partition for partition, _, _ in pool.given] == [0, 1, 2]
    for index in (2, 0, 1):
        pool.answer(index)
    replies = {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages(identities)}
    assert list(replies) == [identities[2], identities[0], identities[1]], "as they arrive"
    assert [replies[identity].metadata.src_node_id for identity in identities] == nodes
    assert grid.pull_messages(identities) == [], "each once"


def test_a_content_is_written_once_a_round_and_gone_when_it_is_answered(
    grid: LocalGrid, pool: FakePool, tmp_path: Path
) -> None:
    first, second = RecordDict({"a": ArrayRecord()}), RecordDict({"b": ArrayRecord()})
    grid.push_messages([message(first, node) for node in (1, 2, 3)])
    (path,) = files(tmp_path)
    assert list(pickle.loads(path.read_bytes())) == ["a"]
    pool.answer(0)
    pool.answer(1)
    grid.push_messages([message(second, 1)])
    assert len(files(tmp_path)) == 2, "one clinic has not answered the first yet"
    pool.answer(2)
    (path,) = files(tmp_path)
    assert list(pickle.loads(path.read_bytes())) == ["b"]
    pool.answer(3)
    grid.push_messages([message(first, 1)])
    (path,) = files(tmp_path)
    assert list(pickle.loads(path.read_bytes())) == ["a"]


def test_what_is_sent_is_left_as_it_was(grid: LocalGrid) -> None:
    content = RecordDict({"a": ArrayRecord()})
    sent = message(content, 1)
    grid.push_messages([sent])
    assert sent.content is content
    assert content.keys() == {"a"}


def test_a_reply_that_nobody_waits_for_any_more_is_dropped(grid: LocalGrid, pool: FakePool) -> None:
    late, timely = grid.push_messages([message(RecordDict(), 1), message(RecordDict(), 2)])
    pool.answer(0)
    pool.answer(1)
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages([timely])] == [timely]
    assert grid.pull_messages([late]) == []


def test_a_pull_waits_for_the_first_reply_and_not_for_long(grid: LocalGrid) -> None:
    (identity,) = grid.push_messages([message(RecordDict(), 1)])
    started = time.monotonic()
    assert grid.pull_messages([identity]) == []
    assert 0.05 < time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LostError(), "its process was ended (killed, or out of memory), 3 times"),
        (NobodyError(), NOBODY),
        (EndedError(), "the run has ended"),
        (pickle.PicklingError("too deep"), "PicklingError: too deep"),
    ],
)
def test_a_task_without_an_answer_is_an_error_in_a_line(
    error: Exception, reason: str, grid: LocalGrid, pool: FakePool
) -> None:
    (identity,) = grid.push_messages([message(RecordDict(), 2)])
    pool.given[0][2].set_exception(error)
    (reply,) = grid.pull_messages([identity])
    assert (reply.error.code, reply.error.reason) == (ErrorCode.CLIENT_APP_CRASHED, reason)
    assert reply.metadata.src_node_id == 2
