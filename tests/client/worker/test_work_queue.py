"""The queue of computations: one at a time, each once, and none that nobody waits for."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.codec import Packed
from melfed.client.worker.disclosure import BusyError
from melfed.client.worker.work_queue import BUSY, LATE, Jobs, StoppingError, Work
from melfed.common.errors import CancelledError, DataError

RUN = ("study", "run")


def work(key: str, round_number: int = 1, flower_run: int = 7, run: tuple[str, str] = RUN) -> Work:
    return Work(key, run, round_number, flower_run)


def answer(text: str = "") -> Packed:
    return Packed(pb.Answer(clinic=text), {})


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.stop(10)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Step:
    """A computation that goes on, step by step, until it is let go."""

    def __init__(self, jobs: Jobs, key: str = "") -> None:
        self.jobs, self.key, self.done = jobs, key, 0
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> Packed:
        self.begun.set()
        while not self.go.wait(0.005):
            self.jobs.checkpoint()
        self.done += 1
        return answer(self.key)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_answer_and_an_error_are_those_of_the_computation(jobs: Jobs) -> None:
    assert jobs.ask(work("a"), lambda: answer("a"), 10)[0].head.clinic == "a"

    def fails() -> Packed:
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        jobs.ask(work("b"), fails, 10)
    assert jobs.ask(work("b"), lambda: answer("again"), 10) == (answer("again"), False), "a failure is not kept"


def test_whoever_asks_for_the_same_joins_and_it_is_computed_once(jobs: Jobs, pool: ThreadPoolExecutor) -> None:
    step = Step(jobs)
    first = pool.submit(jobs.ask, work("a"), step, 20)
    step.begun.wait(10)
    others = [pool.submit(jobs.ask, work("a", flower_run=8), step, 20) for _ in range(3)]
    until(lambda: jobs._open["a"].flower_runs == {7, 8})
    time.sleep(0.05)
    step.go.set()
    assert first.result(10)[1] is False
    assert [each.result(10)[1] for each in others] == [True] * 3
    assert step.done == 1


def test_each_who_waits_has_an_error_of_its_own(jobs: Jobs, pool: ThreadPoolExecutor) -> None:
    go = threading.Event()

    def fails() -> Packed:
        go.wait(10)
        raise DataError("broken")

    waiting: list[Future[tuple[Packed, bool]]] = [pool.submit(jobs.ask, work("a"), fails, 20) for _ in range(2)]
    until(lambda: all(each.running() for each in waiting))
    go.set()
    errors = [each.exception(10) for each in waiting]
    assert all(type(error) is DataError for error in errors)
    assert errors[0] is not errors[1]


def test_one_at_a_time_in_the_order_of_the_questions(jobs: Jobs, pool: ThreadPoolExecutor) -> None:
    order, first = [], Step(jobs)
    pool.submit(jobs.ask, work("first"), first, 20)
    first.begun.wait(10)
    waiting = []
    for name in "bca":
        run = ("study", name)

        def compute(name: str = name) -> Packed:
            order.append(name)
            return answer()

        waiting.append(pool.submit(jobs.ask, work(name, run=run), compute, 20))
        until(lambda name=name: name in jobs._open)
    first.go.set()
    for each in waiting:
        each.result(10)
    assert order == ["b", "c", "a"]


def test_a_deadline_stops_what_has_begun_and_who_could_not_begin_is_told_so(
    jobs: Jobs, pool: ThreadPoolExecutor
) -> None:
    step = Step(jobs)
    late = pool.submit(jobs.ask, work("a"), step, 0.2)
    step.begun.wait(10)
    with pytest.raises(BusyError, match=re.escape(BUSY)):
        jobs.ask(work("b", run=("study", "other")), answer, 0.05)
    with pytest.raises(CancelledError, match=LATE):
        late.result(10)
    until(lambda: "a" not in jobs._open)
    assert step.done == 0


def test_a_later_round_of_a_run_calls_off_the_earlier_and_another_run_does_not(
    jobs: Jobs, pool: ThreadPoolExecutor
) -> None:
    stale, other = Step(jobs), Step(jobs)
    first = pool.submit(jobs.ask, work("a", 1), stale, 20)
    stale.begun.wait(10)
    second = pool.submit(jobs.ask, work("b", 3, run=("study", "other")), other, 20)
    until(lambda: "b" in jobs._open)
    assert not first.done()

    def later() -> Packed:
        return answer("c")

    other.go.set()
    assert jobs.ask(work("c", 2), later, 20)[0].head.clinic == "c"
    with pytest.raises(CancelledError, match="a later request of the same run has come, for round 2"):
        first.result(10)
    second.result(10)


def test_what_is_called_off_stops_unless_another_flower_run_waits_for_it(jobs: Jobs, pool: ThreadPoolExecutor) -> None:
    step = Step(jobs)
    asked = [pool.submit(jobs.ask, work("a", flower_run=run), step, 20) for run in (7, 8)]
    until(lambda: "a" in jobs._open and jobs._open["a"].flower_runs == {7, 8})
    assert jobs.cancel(7) == 0
    assert jobs.cancel(9) == 0
    assert jobs.cancel(8) == 1
    for each in asked:
        with pytest.raises(CancelledError, match="has called the work off"):
            each.result(10)


def test_stopping_ends_the_step_and_takes_no_more(pool: ThreadPoolExecutor) -> None:
    jobs = Jobs()
    step = Step(jobs)
    asked = pool.submit(jobs.ask, work("a"), step, 20)
    step.begun.wait(10)
    assert jobs.stop(10)
    with pytest.raises(StoppingError):
        asked.result(10)
    with pytest.raises(StoppingError):
        jobs.ask(work("b"), answer, 1)


def test_a_step_that_does_not_end_keeps_nobody_waiting(pool: ThreadPoolExecutor) -> None:
    jobs, go, begun = Jobs(), threading.Event(), threading.Event()

    def stuck() -> Packed:
        begun.set()
        go.wait(20)
        return answer()

    asked = pool.submit(jobs.ask, work("a"), stuck, 20)
    begun.wait(10)
    assert not jobs.stop(0.05)
    with pytest.raises(StoppingError):
        asked.result(10)
    go.set()


def test_a_checkpoint_outside_of_the_computing_thread_says_nothing(jobs: Jobs) -> None:
    jobs.cancel(None)
    jobs.checkpoint()
