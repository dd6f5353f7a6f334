"""What becomes of tasks whose processes die, in real processes."""

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from melfed.simulations.engine.attempts import ATTEMPTS, EndedError, LostError, NobodyError
from melfed.simulations.engine.process_pool import ProcessPool

SECONDS = 60.0
# The test of a process that dies needs no prepared one: spawned ones import this file and little else.
create = functools.partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"))


def die(deaths: Path, often: int) -> int:
    """Die the first few times that it is called, whichever process it is in."""
    with deaths.open("a") as file:
        file.write("x")
    if len(deaths.read_text()) <= often:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def fail() -> None:
    raise ValueError("no")


def hang(began: Path) -> None:
    began.touch()
    time.sleep(10 * SECONDS)


class Told(list[tuple[int, str]]):
    def __call__(self, partition: int, reason: str) -> None:
        self.append((partition, reason))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def pool(told: Told) -> Iterator[ProcessPool]:
    with ProcessPool(create, 2, told) as pool:
        yield pool


def test_tasks_are_spread_over_living_processes(pool: ProcessPool, told: Told) -> None:
    pids = {pool.submit(0, os.getpid).result(SECONDS) for _ in range(20)}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert told == []


@pytest.mark.parametrize("deaths", range(ATTEMPTS + 1))
def test_a_task_is_asked_three_times_and_then_it_is_lost(
    deaths: int, pool: ProcessPool, told: Told, tmp_path: Path
) -> None:
    task = pool.submit(7, partial(die, tmp_path / "deaths", deaths))
    others = [pool.submit(0, os.getpid) for _ in range(4)]
    if deaths >= ATTEMPTS:
        with pytest.raises(LostError):
            task.result(SECONDS)
    else:
        assert task.result(SECONDS) > 0
    again = (7, "its process was ended (killed, or out of memory); asked again")
    assert told == [again] * min(deaths, ATTEMPTS - 1)
    # Neither the tasks beside it nor those after it are lost.
    assert all(other.result(SECONDS) for other in [*others, *(pool.submit(0, os.getpid) for _ in range(4))])


def test_a_process_that_is_killed_while_idle_is_replaced(told: Told) -> None:
    with ProcessPool(create, 1, told) as pool:
        first = pool.submit(0, os.getpid).result(SECONDS)
        psutil.Process(first).kill()
        assert pool.submit(3, os.getpid).result(SECONDS) != first


def test_what_a_task_raises_is_whoever_waits_to_have(pool: ProcessPool, told: Told) -> None:
    with pytest.raises(ValueError, match="no"):
        pool.submit(0, fail).result(SECONDS)
    assert pool.submit(0, os.getpid).result(SECONDS)
    assert told == []


def test_closing_ends_what_is_under_way(told: Told, tmp_path: Path) -> None:
    pool = ProcessPool(create, 1, told)
    pid = pool.submit(0, os.getpid).result(SECONDS)
    under_way, waiting = (pool.submit(0, partial(hang, tmp_path / name)) for name in ("began", "never"))
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "began").exists():  # a file is no event that can be waited for
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < SECONDS
    assert not psutil.pid_exists(pid)
    for future in (under_way, waiting):
        with pytest.raises(EndedError):
            future.result(0)
    assert not (tmp_path / "never").exists()
    assert told == []


def refuse() -> None:
    raise MemoryError


def test_where_no_process_can_be_started_every_task_says_so(told: Told) -> None:
    broken = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"), refuse)
    with ProcessPool(broken, 2, told) as pool:
        for future in [pool.submit(0, os.getpid) for _ in range(5)]:
            with pytest.raises(NobodyError):
                future.result(SECONDS)


def test_where_one_cannot_be_started_the_others_go_on(told: Told) -> None:
    turn, lock = iter(range(9)), threading.Lock()

    def some() -> ProcessPoolExecutor:
        with lock:
            return create() if next(turn) == 0 else create(initializer=refuse)

    with ProcessPool(some, 2, told) as pool:
        assert all(pool.submit(0, os.getpid).result(SECONDS) for _ in range(6))
