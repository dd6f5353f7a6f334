"""What the worker's process answers: to whom, once, and not for longer than anybody waits."""

import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from melfed.client.config.policy import ClinicPolicy
from melfed.client.privacy.plan import plan_of
from melfed.client.rpc import codec as wire
from melfed.client.rpc.codec import Packed
from melfed.client.worker import service
from melfed.client.worker.prometheus import WorkerMetrics
from melfed.client.worker.work_queue import StoppingError
from melfed.common.audit.log import read_log, verify_log
from melfed.common.errors import (
    BudgetError,
    CancelledError,
    DataError,
    DeclinedError,
    LedgerError,
    PolicyError,
    ServiceError,
    StorageError,
    StudyError,
)
from melfed.common.tensors import TensorError
from tests.client.fake_worker import PRIVATE, STUDY, TENSORS, Clinic, asked
from tests.client.small import small_study


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    clinic = Clinic(tmp_path)
    yield clinic
    clinic.service.stop(5)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def tensors(change: float = 0.0) -> Callable[[], dict[str, np.ndarray]]:
    return lambda: {name: tensor + np.float32(change) for name, tensor in TENSORS.items()}


def events(clinic: Clinic) -> list[int]:
    return [json.loads(line)["id"] for line in clinic.log.read_text().splitlines()]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def same(one: Packed, two: Packed) -> None:
    assert one.head == two.head
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        assert two.arrays[name].dtype == array.dtype
        assert two.arrays[name].tobytes() == array.tobytes()


def test_a_round_is_trained_written_down_and_counted(clinic: Clinic) -> None:
    head, files = wire.send(clinic.service.train(asked(2), tensors()))
    reply = wire.unpack_trained(wire.receive(head, files))
    np.testing.assert_array_equal(reply.tensors["w"], TENSORS["w"] + 2)
    assert (reply.weight, reply.loss, reply.account) == (120, 0.25, None)
    assert reply.validation is not None
    assert events(clinic) == [1005]
    row = json.loads(clinic.log.read_text())
    assert (row["kind"], row["study"], row["digest"], row["run"], row["round"]) == (
        "train",
        "small",
        STUDY.digest,
        "run",
        2,
    )
    assert verify_log(clinic.log).error is None
    text = generate_latest(clinic.metrics.registry).decode()
    assert 'melfed_requests_total{kind="train",outcome="answered"} 1.0' in text
    assert re.search(r"^melfed_training_seconds_total \d", text, re.MULTILINE)
    assert "melfed_epsilon" not in text


def test_a_repeated_question_has_the_same_answer_without_work_and_after_a_restart(tmp_path: Path) -> None:
    first = Clinic(tmp_path)
    reply = first.service.train(asked(2), tensors())
    same(first.service.train(asked(2, flower_run=8), tensors()), reply)
    assert first.ready().trained == [("run", 2)]
    second = Clinic(tmp_path)
    same(second.service.train(asked(2), tensors()), reply)
    assert second.made == []
    assert events(second) == [1005, 1008, 1008]


@pytest.mark.parametrize("other", ["round", "run", "model", "kind"])
def test_another_question_is_another_answer(clinic: Clinic, other: str) -> None:
    clinic.service.train(asked(1), tensors())
    if other == "kind":
        clinic.service.evaluate(asked(0), tensors())
        assert clinic.ready().evaluated == 1
        return
    question = asked(2 if other == "round" else 1, run="another" if other == "run" else "run")
    clinic.service.train(question, tensors(1.0 if other == "model" else 0.0))
    assert len(clinic.ready().trained) == 2


def test_whoever_asks_again_joins_the_work(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    replies = [pool.submit(clinic.service.train, asked(1), tensors()) for _ in range(3)]
    assert worker.begun.wait(60)
    until(lambda: len(clinic.service._jobs._open) == 1)
    time.sleep(0.1)
    worker.go.set()
    first, *others = (reply.result(60) for reply in replies)
    for other in others:
        same(first, other)
    assert len(worker.trained) == 1
    assert sorted(events(clinic)) == [1005, 1008, 1008]


def test_the_work_goes_on_for_the_longest_of_those_who_wait(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    first = pool.submit(clinic.service.train, asked(1, seconds=0.3), tensors())
    assert worker.begun.wait(60)
    second = pool.submit(clinic.service.train, asked(1, seconds=20), tensors())
    with pytest.raises(CancelledError, match="deadline"):
        first.result(60)
    time.sleep(0.1)
    worker.go.set()
    second.result(60)


def test_one_training_at_a_time_in_the_order_of_the_questions(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    replies: list[Future[Packed]] = []
    for run in ("a", "b", "c"):
        replies.append(pool.submit(clinic.service.train, asked(1, run=run), tensors()))
        until(lambda: len(clinic.service._jobs._open) == len(replies))
    worker.go.set()
    for reply in replies:
        reply.result(60)
    assert worker.trained == [("a", 1), ("b", 1), ("c", 1)]


def test_a_later_round_of_the_run_calls_off_what_nobody_waits_for(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    stale = pool.submit(clinic.service.train, asked(1), tensors())
    assert worker.begun.wait(60)
    other = pool.submit(clinic.service.train, asked(1, run="other"), tensors())
    until(lambda: len(clinic.service._jobs._open) == 2)
    fresh = pool.submit(clinic.service.train, asked(2), tensors())
    with pytest.raises(CancelledError, match="later request of the same run"):
        stale.result(60)
    worker.go.set()
    fresh.result(60)
    other.result(60)
    assert worker.trained == [("other", 1), ("run", 2)]
    assert 1009 in events(clinic)


def test_an_earlier_round_calls_nothing_off(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    later = pool.submit(clinic.service.train, asked(2), tensors())
    assert worker.begun.wait(60)
    earlier = pool.submit(clinic.service.train, asked(1), tensors())
    until(lambda: len(clinic.service._jobs._open) == 2)
    worker.go.set()
    later.result(60)
    earlier.result(60)


def test_who_must_wait_until_the_deadline_is_told_that_the_clinic_is_busy(
    clinic: Clinic, pool: ThreadPoolExecutor
) -> None:
    worker = clinic.ready()
    worker.go.clear()
    first = pool.submit(clinic.service.train, asked(1, run="a"), tensors())
    assert worker.begun.wait(60)
    with pytest.raises(ServiceError, match="was busy"):
        clinic.service.train(asked(1, run="b", seconds=0.2), tensors())
    worker.go.set()
    first.result(60)
    clinic.service.train(asked(1, run="c"), tensors())
    assert worker.trained == [("a", 1), ("c", 1)], "what nobody waits for is not begun"


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_the_deadline_stops_the_work_at_its_next_step(clinic: Clinic, kind: str) -> None:
    worker = clinic.ready()
    worker.go.clear()
    with pytest.raises(CancelledError, match="deadline"):
        getattr(clinic.service, kind)(asked(1, seconds=0.2), tensors())
    until(lambda: not clinic.service._jobs._open)
    worker.go.set()
    assert worker.trained == []
    assert events(clinic) == [1009]


def test_cancel_stops_the_work_of_one_flower_run(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    reply = pool.submit(clinic.service.train, asked(1, flower_run=7), tensors())
    assert worker.begun.wait(60)
    assert clinic.service.cancel(8) == 0
    assert clinic.service.cancel(7) == 1
    with pytest.raises(CancelledError, match="called the work off"):
        reply.result(60)
    worker.go.set()
    clinic.service.train(asked(1, flower_run=7), tensors())
    assert worker.trained == [("run", 1)], "the same question can be asked again"


def test_work_that_a_later_flower_run_waits_for_too_goes_on(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    first = pool.submit(clinic.service.train, asked(1, flower_run=7), tensors())
    assert worker.begun.wait(60)
    second = pool.submit(clinic.service.train, asked(1, flower_run=8), tensors())
    job = next(iter(clinic.service._jobs._open.values()))
    until(lambda: job.flower_runs == {7, 8})
    assert clinic.service.cancel(7) == 0
    worker.go.set()
    same(first.result(60), second.result(60))


def test_moments_are_kept_in_one_place_where_they_can_be_deleted(clinic: Clinic) -> None:
    """The guard's, which gives them again: not in the outbox too."""
    first = clinic.service.summarise(asked(study=PRIVATE), dict)
    again = clinic.service.summarise(asked(study=PRIVATE), dict)
    assert all(np.array_equal(first.arrays[name], array) for name, array in again.arrays.items())
    assert clinic.ready(PRIVATE).summarised == 2
    assert not list(clinic.outbox.folder.iterdir())
    with pytest.raises(StudyError, match="round 9: study private has rounds 1 to 2"):
        clinic.service.summarise(asked(9, PRIVATE), dict)


def test_stopping_ends_the_work_and_takes_no_more(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    clinic = Clinic(tmp_path)
    worker = clinic.ready()
    worker.go.clear()
    replies = [pool.submit(clinic.service.train, asked(1, run=run), tensors()) for run in ("a", "b")]
    assert worker.begun.wait(60)
    until(lambda: len(clinic.service._jobs._open) == 2)
    started = time.monotonic()
    assert clinic.service.stop(60)
    assert time.monotonic() - started < 30
    for reply in replies:
        with pytest.raises(StoppingError):
            reply.result(60)
    with pytest.raises(StoppingError):
        clinic.service.train(asked(1), tensors())
    assert worker.trained == []


def test_a_step_that_does_not_end_keeps_nobody_waiting(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    clinic = Clinic(tmp_path)
    hang = threading.Event()
    clinic.ready()._work = hang.wait
    reply = pool.submit(clinic.service.train, asked(1), tensors())
    until(lambda: clinic.service._jobs._current is not None and clinic.service._jobs._current.begun)
    assert not clinic.service.stop(0.2)
    with pytest.raises(StoppingError):
        reply.result(60)
    hang.set()


def test_a_worker_that_is_long_in_the_making_is_made_once(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    clinic = Clinic(tmp_path)
    decoded = threading.Event()
    make = clinic.service._warm._make
    clinic.service._warm._make = lambda study: (decoded.wait(10), make(study))[1]
    for _ in range(2):
        with pytest.raises(ServiceError, match="still prepares its images"):
            clinic.service.describe(asked(seconds=0.1))
    waiting = pool.submit(clinic.service.describe, asked())
    decoded.set()
    assert waiting.result(60).clinic == "north"
    assert clinic.made == ["small"]
    decoded.clear()
    plan_of(PRIVATE)  # takes seconds the first time, which nobody is to wait for below
    waiting = pool.submit(clinic.service.describe, asked(study=PRIVATE))
    until(lambda: len(clinic.service._warm._workers) == 2)
    clinic.service.stop(1)
    with pytest.raises(StoppingError):
        waiting.result(60)
    decoded.set()


# Who is answered.


def test_a_policy_counts_from_the_next_question_on(clinic: Clinic) -> None:
    clinic.service.train(asked(1), tensors())
    clinic.limits["studies"] = ()
    for ask in (
        lambda: clinic.service.describe(asked()),
        lambda: clinic.service.train(asked(1), tensors()),
        lambda: clinic.service.train(asked(2), tensors()),
        lambda: clinic.service.evaluate(asked(0), tensors()),
    ):
        with pytest.raises(DeclinedError, match="not approved here"):
            ask()
    clinic.limits["studies"] = (STUDY.digest,)
    clinic.service.describe(asked())
    assert clinic.ready().policies[-1].studies == (STUDY.digest,)
    assert events(clinic) == [1005, 1006, 1006, 1006, 1006, 1005]
    clinic.limits["epsilon"] = 3.0
    clinic.service.train(asked(2), tensors())
    assert clinic.ready().policies[-1].epsilon == 3.0


def test_a_stored_answer_does_not_leave_either_if_its_tensors_may_not(clinic: Clinic) -> None:
    clinic.service.train(asked(1), tensors())
    clinic.limits["tensors"] = ("b",)
    with pytest.raises(DeclinedError, match="'w' among them"):
        clinic.service.train(asked(1), tensors())


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_revoked_approval_holds_back_the_round_under_way(
    clinic: Clinic, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, kind: str, watched: bool
) -> None:
    """At its next step, and else before its answer leaves; that stays here, and is paid for should they agree again."""
    monkeypatch.setattr(service, "POLICY_SECONDS", 0.05 if watched else 60.0)
    worker = clinic.ready()
    worker.go.clear()
    ask = getattr(clinic.service, kind)
    reply = pool.submit(ask, asked(1), tensors())
    assert worker.begun.wait(60)
    clinic.limits["studies"] = ()
    if not watched:
        worker.go.set()
    with pytest.raises(DeclinedError, match="not approved here"):
        reply.result(60)
    assert events(clinic) == [1006]
    done = worker.evaluated + len(worker.trained)
    assert done == (0 if watched else 1)
    with pytest.raises(DeclinedError):
        ask(asked(1), tensors())
    clinic.limits["studies"] = "any"
    worker.go.set()
    ask(asked(1), tensors())
    assert worker.evaluated + len(worker.trained) == 1
    assert events(clinic) == [1006, 1006, 1005 if watched else 1008]


def test_a_policy_that_is_being_written_ends_no_round(
    clinic: Clinic, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "POLICY_SECONDS", 0.01)
    worker = clinic.ready()
    worker.go.clear()
    reply = pool.submit(clinic.service.train, asked(1), tensors())
    assert worker.begun.wait(60)
    read, looked = clinic.service._policy, threading.Event()

    def half() -> None:
        looked.set()
        raise PolicyError("clinic.yaml: is half written")

    clinic.service._policy = half
    assert looked.wait(60)
    looked.clear()
    assert looked.wait(60)
    clinic.service._policy = read
    worker.go.set()
    reply.result(60)


def test_tensors_that_may_leave_no_longer_stay(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    worker = clinic.ready()
    worker.go.clear()
    reply = pool.submit(clinic.service.train, asked(1), tensors())
    assert worker.begun.wait(60)
    clinic.limits["tensors"] = ("b",)
    worker.go.set()
    with pytest.raises(DeclinedError, match="'w' among them"):
        reply.result(60)


def test_a_description_does_not_leave_either_once_approval_is_revoked(clinic: Clinic) -> None:
    describe = clinic.ready().describe
    clinic.ready().describe = lambda run, counts: (clinic.limits.update(studies=()), describe(run, counts))[1]
    with pytest.raises(DeclinedError, match="not approved here"):
        clinic.service.describe(asked())
    assert events(clinic) == [1006]


def test_changed_data_are_read_anew_for_the_next_request(clinic: Clinic) -> None:
    other = small_study(name="other")
    for study in (STUDY, other, STUDY, other):
        clinic.service.describe(asked(study=study))
    assert clinic.made == ["small", "other"]
    clinic.stamp = "eight patients fewer"
    clinic.service.train(asked(2), tensors())
    clinic.service.describe(asked(study=other))
    clinic.service.describe(asked(study=STUDY))
    assert clinic.made == ["small", "other", "small", "other"]


def test_data_that_cannot_be_looked_at_are_not_used(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.service.describe(asked())

    def gone() -> str:
        raise DataError("/data: no such folder")

    monkeypatch.setattr(clinic.service._warm, "_stamp", gone)
    with pytest.raises(DataError, match="no such folder"):
        clinic.service.train(asked(1), tensors())
    assert clinic.ready().trained == []
    assert next(row for row in read_log(clinic.log) if row["id"] == 1007)["reason"] == (
        "DataError: see melfed-client doctor"
    )


def test_what_is_not_approved_makes_no_worker_and_receives_no_tensors(clinic: Clinic) -> None:
    clinic.limits["studies"] = ()
    with pytest.raises(DeclinedError):
        clinic.service.train(asked(1), lambda: pytest.fail("tensors were received"))
    assert clinic.made == []


def study_text(**changes: object) -> str:
    content = json.loads(STUDY.model_dump_json())
    for section, change in changes.items():
        content[section] = {**content[section], **change} if isinstance(change, dict) else change
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the study cannot be read"),
        ("{", "the study cannot be read"),
        ("[]", "the study cannot be read"),
        (study_text(more=1), "the study cannot be read: more"),
        (study_text(protocol=3), "the study cannot be read: protocol"),
        (study_text(model={"pretrained": True, "weights": "/etc/passwd"}), "names a path"),
        (study_text(model={"pretrained": True}), "leaves open which weights"),
        ("x" * 100_000, "has 100000 characters"),
        (study_text(seed=3), f"the request means study {STUDY.digest[:12]}, but brings"),
    ],
)
def test_a_study_that_cannot_be_trusted_is_refused(clinic: Clinic, text: str, reason: str) -> None:
    question = asked(1)
    question.study = text
    with pytest.raises(StudyError, match=reason):
        clinic.service.train(question, tensors())
    assert clinic.made == []
    assert events(clinic) == [1007]


@pytest.mark.parametrize("number", [0, -1, 3, 2**40])
def test_a_round_outside_the_study_is_refused(clinic: Clinic, number: int) -> None:
    with pytest.raises(StudyError, match="has rounds 1 to 2"):
        clinic.service.train(asked(number), tensors())


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_deadline_that_is_none_is_over(clinic: Clinic, seconds: float) -> None:
    with pytest.raises((ServiceError, CancelledError)):
        clinic.service.train(asked(1, seconds=seconds), tensors())


def test_two_studies_are_kept_warm(clinic: Clinic) -> None:
    studies = [small_study(name=name) for name in ("one", "two", "three")]
    for study in (studies[0], studies[1], studies[0], studies[1], studies[2], studies[1], studies[0]):
        clinic.service.describe(asked(study=study))
    assert clinic.made == ["one", "two", "three", "one"]


# What is written down of a failure; what of it leaves: tests/client/worker/test_disclosure.py.


@pytest.mark.parametrize("error", [DataError("ISIC_1.jpg"), LedgerError("/secret/ledger: is damaged")])
def test_reasons_that_could_tell_of_patients_stay_out_of_the_audit_log(clinic: Clinic, error: Exception) -> None:
    def failing(_study: object) -> None:
        raise error

    clinic.service._warm._make = failing
    for ask in (lambda: clinic.service.describe(asked()), lambda: clinic.service.train(asked(1), tensors())):
        with pytest.raises(type(error)):
            ask()
    assert "ISIC" not in clinic.log.read_text()
    assert "secret" not in clinic.log.read_text()


def test_the_figures_of_a_refusal_for_want_of_epsilon_are_in_the_audit_log_and_kept_for_everybody_who_waits(
    clinic: Clinic, pool: ThreadPoolExecutor
) -> None:
    worker = clinic.ready(PRIVATE)
    worker.error = BudgetError("too little is left", "of ε = 3, 2.2 is spent")
    worker.go.clear()
    replies = [pool.submit(clinic.service.train, asked(1, PRIVATE), tensors()) for _ in range(2)]
    assert worker.begun.wait(60)  # the accountant is loaded for the first private study
    time.sleep(0.05)
    worker.go.set()
    caught = [reply.exception(30) for reply in replies]
    assert {(str(error), error.figures) for error in caught} == {("too little is left", "of ε = 3, 2.2 is spent")}
    assert caught[0] is not caught[1]
    told = [row["reason"] for row in read_log(clinic.log) if row["id"] == 1006]
    assert told == ["too little is left: of ε = 3, 2.2 is spent"] * 2


def test_a_bug_is_written_down_without_its_words(clinic: Clinic) -> None:
    clinic.ready().error = ValueError("patient 17")
    with pytest.raises(ValueError, match="17"):
        clinic.service.train(asked(1), tensors())
    assert events(clinic) == [1007]
    assert "17" not in json.loads(clinic.log.read_text())["reason"]


def test_what_cannot_be_received_is_refused(clinic: Clinic) -> None:
    def damaged() -> dict[str, np.ndarray]:
        raise TensorError("damaged")

    with pytest.raises(TensorError, match="damaged"):
        clinic.service.train(asked(1), damaged)
    assert events(clinic) == [1007]


def test_a_failure_is_not_stored(clinic: Clinic) -> None:
    clinic.ready().error = StudyError("loss")
    with pytest.raises(StudyError):
        clinic.service.train(asked(1), tensors())
    clinic.ready().error = None
    clinic.service.train(asked(1), tensors())


@pytest.mark.parametrize("where", ["outbox", "audit"])
def test_nothing_leaves_while_the_disk_is_full_and_all_goes_on_afterwards(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("/private/path: no space left")

    with monkeypatch.context() as patch:
        patch.setattr(
            clinic.service._outbox if where == "outbox" else clinic.service._audit,
            *(("save", full) if where == "outbox" else ("record", full)),
        )
        with pytest.raises(StorageError, match="no space left"):
            clinic.service.train(asked(1), tensors())
    clinic.service.train(asked(1), tensors())
    # What was stored, and only not written down, is not trained again.
    assert len(clinic.ready().trained) == (2 if where == "outbox" else 1)


def test_a_full_disk_is_in_the_audit_log_once_there_is_space(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError):
            clinic.service.train(asked(1), tensors())
    assert events(clinic) == []
    clinic.service.train(asked(1), tensors())
    assert events(clinic) == [1014, 1007, 1005]
    told = next(read_log(clinic.log))
    assert "No space left on device; free space" in str(told["reason"])
    assert str(clinic.log.parent) not in str(told["reason"])


def shown(clinic: Clinic) -> str:
    return generate_latest(clinic.metrics.registry).decode()


def test_what_is_spent_is_shown_also_where_the_work_was_called_off(clinic: Clinic) -> None:
    clinic.service.train(asked(1, PRIVATE), tensors())
    assert "melfed_epsilon_spent 1.0" in shown(clinic)
    worker = clinic.ready(PRIVATE)
    worker.go.clear()
    with pytest.raises(CancelledError):
        clinic.service.train(asked(2, PRIVATE, seconds=0.2), tensors())
    until(lambda: "melfed_epsilon_spent 2.0" in shown(clinic))
    assert "melfed_epsilon_left 8.0" in shown(clinic)
    worker.go.set()


def test_the_monitoring_learns_of_no_budget_that_the_clinic_does_not_tell(clinic: Clinic) -> None:
    clinic.service._metrics = clinic.metrics = WorkerMetrics(budget=False)
    clinic.service.train(asked(1, PRIVATE), tensors())
    assert "melfed_rounds_total 1.0" in shown(clinic)
    assert "epsilon" not in shown(clinic)


def test_many_at_once_each_get_their_own(clinic: Clinic, pool: ThreadPoolExecutor) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> np.ndarray:
        barrier.wait(60)
        packed = clinic.service.train(asked(1 + number % 2, run=f"run {number // 2}"), tensors(number))
        return packed.arrays["tensors/w"]

    futures = [pool.submit(ask, number) for number in range(8)]
    for number, future in enumerate(futures):
        try:
            np.testing.assert_array_equal(future.result(10), TENSORS["w"] + number + 1 + number % 2)
        except CancelledError:
            assert number % 2 == 0, "an earlier round is called off by the later one"


def test_a_policy_that_cannot_be_read_is_told_once_for_each_fault(tmp_path: Path) -> None:
    clinic, faults = Clinic(tmp_path), ["/etc/melfed/clinic.yaml:3: policy.epsilon: a"] * 3 + ["clinic.yaml:4: b"]

    def policy() -> ClinicPolicy:
        if faults:
            raise PolicyError(faults.pop(0))
        return ClinicPolicy(**clinic.limits)

    clinic.service._policy = policy
    for _ in range(4):
        with pytest.raises(PolicyError):
            clinic.service.train(asked(), tensors())
    clinic.service.train(asked(), tensors())
    faults.append("clinic.yaml:4: b")
    with pytest.raises(PolicyError):
        clinic.service.describe(asked())
    clinic.service.stop(5)
    assert events(clinic) == [1015, 1007, 1007, 1007, 1015, 1007, 1005, 1015, 1007]
    reasons = [row["reason"] for row in read_log(clinic.log) if row["id"] == 1015]
    assert reasons == ["clinic.yaml:3: policy.epsilon: a", "clinic.yaml:4: b", "clinic.yaml:4: b"]
