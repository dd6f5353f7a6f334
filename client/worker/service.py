"""What the worker's process does with a question: whether it may be answered, whether it has been, and the answer.

Whoever asks is not believed: the study comes with the question, its digest is taken anew, and it is held against the
clinic's policy as that stands at this moment. What leaves has been written to disk and to the audit log before.
"""

import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Protocol

from pydantic import ValidationError

from melfed.client.config.clinic import without_folder
from melfed.client.config.policy import ClinicPolicy, check_study, check_tensors_may_leave
from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Received, Worker
from melfed.client.rpc.codec import Packed
from melfed.client.worker.disclosure import BusyError, written
from melfed.client.worker.outbox import Outbox
from melfed.client.worker.prometheus import WorkerMetrics
from melfed.client.worker.reply_store import reply_key
from melfed.client.worker.work_queue import Jobs, StoppingError, Work
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import (
    CancelledError,
    DeclinedError,
    LedgerError,
    MelfedError,
    PolicyError,
    StorageError,
    StudyError,
)
from melfed.common.messages import TENSORS
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import group_of

WARM = 2
"""Studies whose model, data and caches are kept ready."""
OUTCOMES = {
    "answered": Event.REQUEST_ANSWERED,
    "repeated": Event.REQUEST_REPEATED,
    "declined": Event.REQUEST_DECLINED,
    "cancelled": Event.REQUEST_CANCELLED,
    "refused": Event.REQUEST_REFUSED,
}
MOST_STUDY_TEXT = 1 << 16
POLICY_SECONDS = 2.0
"""How long at most a computation goes on after the clinic has forbidden it, beyond the step that it is in."""
Record = Callable[..., None]
Receive = Callable[[], Mapping[str, Received]]
Compute = Callable[["StudyWorker", Mapping[str, Received]], Packed]

_log = logging.getLogger(__name__)


class StudyWorker(Worker, Protocol):
    """A worker of one study in this process: `melfed.client.worker.worker.ClinicWorker`."""

    checkpoint: Callable[[], None] | None

    def allow(self, policy: ClinicPolicy) -> None:
        """Go by this policy from now on."""

    def left(self) -> float | None:
        """Return the ε that the policy leaves; None where the study has no privacy."""


class Service:
    """Answers for one clinic, from any number of threads."""

    def __init__(
        self,
        clinic: str,
        workers: Callable[[StudyProtocol], StudyWorker],
        policy: Callable[[], ClinicPolicy],
        outbox: Outbox,
        audit: AuditLog,
        metrics: WorkerMetrics | None = None,
        stamp: Callable[[], str] = str,
    ) -> None:
        """Begin to answer.

        Args:
            clinic: its name, which goes with every answer.
            workers: makes the worker of a study; called once for as long as the study is kept warm and the data stay.
            policy: the clinic's, read anew for every question.
            outbox: where answers are kept.
            audit: where every question is written down with what became of it.
            metrics: are told as well.
            stamp: says of the clinic's data what changes with them; asked before a worker is used.
        """
        self.clinic = clinic
        self._policy, self._outbox, self._audit = policy, outbox, audit
        self._metrics = metrics or WorkerMetrics()
        self._jobs = Jobs()
        self._warm = _WarmWorkers(workers, stamp)
        self._unusable = ""

    def describe(self, question: pb.Question) -> pb.Description:
        """Return what the clinic says of itself.

        Raises:
            DeclinedError: the policy forbids the study.
            StudyError: the study cannot be read, or is not the one that is meant.
            MelfedError: of another class: the clinic cannot answer. What of it all may leave:
            `melfed.client.worker.disclosure`.
        """
        with self._recorded("describe", question) as (study, record):
            policy = self._admit(study)
            worker = self._warm.get(study, wire.seconds_of(question))
            worker.allow(policy)
            description = wire.pack_description(worker.describe(question.run, not question.without_counts))
            # It may have taken long.
            self._admit(study)
            record("answered")
            return description

    def train(self, question: pb.Question, receive: Receive) -> Packed:
        """Return the answer to one round; a repeated question has the same answer.

        Args:
            question: which study, run and round, and how long the answer is of use.
            receive: returns the global model's tensors; called once the question is admitted.

        Raises:
            CancelledError: the work was called off, or not done in time.
            MelfedError: as `describe`, and what `receive` raises.
        """

        def train(worker: StudyWorker, tensors: Mapping[str, Received]) -> Packed:
            started = time.perf_counter()
            reply = worker.train(tensors, question.round, question.digest, question.run)
            seconds = time.perf_counter() - started
            self._metrics.trained(seconds)
            about = f"run={question.flower_run} round={question.round} kind=train"
            _log.info("timing worker %s training=%d", about, round(1000 * seconds))
            return wire.pack_trained(reply, self.clinic)

        return self._answer("train", question, receive, train)

    def summarise(self, question: pb.Question, receive: Receive) -> Packed:
        """Return the moments of a study of one round, the same ones whenever its run asks; as `train`."""

        def summarise(worker: StudyWorker, _tensors: Mapping[str, Received]) -> Packed:
            summarised = worker.summarise(question.digest, question.run)
            return wire.pack_summarised(summarised, worker.account(), self.clinic)

        return self._answer("summarise", question, receive, summarise)

    def evaluate(self, question: pb.Question, receive: Receive) -> Packed:
        """Return the histograms of a model's scores; as `train`."""

        def evaluate(worker: StudyWorker, tensors: Mapping[str, Received]) -> Packed:
            scored = worker.evaluate(tensors, question.digest, question.run, question.round)
            return wire.pack_scored(scored, worker.account(), self.clinic)

        return self._answer("evaluate", question, receive, evaluate)

    def cancel(self, flower_run: int | None) -> int:
        """Call off what is computed for one of Flower's runs alone (None: everything); returns how many."""
        return self._jobs.cancel(flower_run)

    def stop(self, seconds: float) -> bool:
        """Take no more questions, stop at the next step and wait for that; False where it takes longer."""
        stopped = self._jobs.stop(seconds)
        self._warm.stop()
        return stopped

    def _answer(self, kind: str, question: pb.Question, receive: Receive, compute: Compute) -> Packed:
        with self._recorded(kind, question) as (study, record):
            if question.digest != study.digest:
                raise StudyError(f"the request means study {question.digest[:12]}, but brings {study.digest[:12]}")
            last = study.federation.rounds
            if kind != "evaluate" and not 1 <= question.round <= last:
                raise StudyError(f"round {question.round}: study {study.name} has rounds 1 to {last}")
            policy = self._admit(study)
            tensors = receive()
            moment = max(question.round, last) + 1 if kind == "evaluate" else question.round
            key = reply_key(study.digest, question.run, moment, kind, tensors)
            work = Work(key, (study.digest, question.run), moment, question.flower_run)
            answer = self._stored(kind, key, policy)
            repeated = answer is not None
            if answer is None:
                answer, repeated = self._jobs.ask(
                    work,
                    lambda: self._computed(kind, key, study, lambda worker: compute(worker, tensors)),
                    wire.seconds_of(question),
                )
            # Approval may have been taken back meanwhile. The answer stays where it is: should the clinic approve the
            # study again, it costs nothing again.
            _check_leaves(answer, self._admit(study))
            self._metrics.traffic(sum(array.nbytes for array in tensors.values()))
            if repeated:
                record("repeated")
            else:
                record("answered", bytes=sum(array.nbytes for array in answer.arrays.values()))
            return answer

    def _computed(
        self,
        kind: str,
        key: str,
        study: StudyProtocol,
        compute: Callable[[StudyWorker], Packed],
    ) -> Packed:
        """Compute an answer, and store it. In the computing thread."""
        policy = self._admit(study)
        # It may have been answered while this question waited for its turn.
        if (stored := self._stored(kind, key, policy)) is not None:
            return stored
        worker = self._warm.get(study, None)
        worker.allow(policy)
        worker.checkpoint = self._watch(study)
        try:
            answer = compute(worker)
        finally:
            self._show_budget(worker)
        # Moments are kept by the guard, in one place, where they can be deleted.
        if kind != "summarise":
            self._outbox.save(kind, key, answer)
        return answer

    def _stored(self, kind: str, key: str, policy: ClinicPolicy) -> Packed | None:
        answer = self._outbox.find(kind, key)
        if answer is not None:
            _check_leaves(answer, policy)
        return answer

    def _watch(self, study: StudyProtocol) -> Callable[[], None]:
        """Return what a computation calls at each step: it raises where the work is called off or forbidden by now."""
        looked = time.monotonic()

        def checkpoint() -> None:
            nonlocal looked
            self._jobs.checkpoint()
            if time.monotonic() - looked < POLICY_SECONDS:
                return
            # A policy that somebody is writing at this moment ends no round; nothing leaves before it can be read.
            with contextlib.suppress(PolicyError):
                self._admit(study)
            looked = time.monotonic()

        return checkpoint

    def _admit(self, study: StudyProtocol) -> ClinicPolicy:
        """Return the policy, which allows the study. Raises DeclinedError."""
        policy = self._policy_now()
        # What is not approved costs no calibration of its noise.
        approved = policy.studies == "any" or study.digest in policy.studies
        check_study(policy, study, _smallest_noise(study) if approved else math.inf)
        return policy

    def _policy_now(self) -> ClinicPolicy:
        """Return the policy as it stands. Raises PolicyError, which is written down once until it is another."""
        try:
            policy = self._policy()
        except PolicyError as error:
            if str(error) != self._unusable:
                self._unusable = str(error)
                self._audit.record_or_hold(Event.CONFIGURATION_REFUSED, reason=without_folder(error))
            raise
        self._unusable = ""
        return policy

    def _show_budget(self, worker: StudyWorker) -> None:
        """Tell the monitoring what the ledger says now."""
        # Where the ledger itself has failed, that error is on its way already.
        with contextlib.suppress(LedgerError, StorageError):
            account, left = worker.account(), worker.left()
            if account is not None:
                self._metrics.privacy(account.epsilon, math.nan if left is None else left)

    @contextlib.contextmanager
    def _recorded(self, kind: str, question: pb.Question) -> Iterator[tuple[StudyProtocol, Record]]:
        """Read a question's study, and write the question down with what the body says became of it, or its error."""
        started = time.monotonic()
        about: dict[str, str | int] = {
            "kind": kind,
            "run": question.run[:200],
            "round": question.round,
            "flower_run": question.flower_run,
        }

        def stated(outcome: str, **more: str | int) -> None:
            # Nothing leaves that is not in the audit log.
            self._audit.record(OUTCOMES[outcome], **about, seconds=_since(started), **more)
            self._metrics.request(kind, outcome)

        def unanswered(outcome: str, reason: str, error: Exception) -> None:
            told = {"reason": reason, "error": type(error).__name__}
            self._audit.record_or_hold(OUTCOMES[outcome], **about, seconds=_since(started), **told)
            self._metrics.request(kind, outcome)

        try:
            study = read_sealed(question.study)
            about |= {"study": study.name, "digest": study.digest}
            yield study, stated
        except MelfedError as error:
            if isinstance(error, StorageError):
                self._audit.record_or_hold(Event.CLINIC_DISK_FULL, reason=str(error))
            unanswered(_outcome(error), written(error), error)
            raise
        except Exception as error:
            unanswered("refused", written(error), error)
            raise


class _WarmWorkers:
    """The workers of the last studies that were asked about.

    They are made in threads of their own, one at a time: to decode a clinic's images can take longer than anybody
    waits, and is not begun anew for whoever asks next.
    """

    def __init__(self, make: Callable[[StudyProtocol], StudyWorker], stamp: Callable[[], str]) -> None:
        self._make, self._stamp = make, stamp
        self._made_of = ""
        self._mutex, self._turn = threading.Lock(), threading.Lock()
        self._workers: OrderedDict[str, Future[StudyWorker]] = OrderedDict()

    def get(self, study: StudyProtocol, seconds: float | None) -> StudyWorker:
        """Return a study's worker, made where it is not here; waits so long for it (None: for ever).

        Raises:
            BusyError: it is still being made when the time is over.
            StoppingError: the process stops.
            MelfedError: it cannot be made.
        """
        stamp = self._stamp()
        with self._mutex:
            if stamp != self._made_of:
                # The clinic has changed its data: what was read of them before is used no more.
                self._workers.clear()
                self._made_of = stamp
            made = self._workers.get(study.digest)
            if made is None:
                made = self._workers[study.digest] = Future()
                threading.Thread(target=self._fulfil, args=(study, made), name="worker", daemon=True).start()
            self._workers.move_to_end(study.digest)
            while len(self._workers) > WARM:
                self._workers.popitem(last=False)
        try:
            return made.result(seconds)
        except TimeoutError:
            raise BusyError("this clinic still prepares its images for the study; ask again later") from None

    def stop(self) -> None:
        """Let nobody wait any longer."""
        with self._mutex:
            for made in self._workers.values():
                with contextlib.suppress(InvalidStateError):
                    made.set_exception(StoppingError("the worker is stopping"))

    def _fulfil(self, study: StudyProtocol, made: "Future[StudyWorker]") -> None:
        try:
            with self._turn:
                worker = self._make(study)
            with contextlib.suppress(InvalidStateError):
                made.set_result(worker)
        except Exception as error:  # noqa: BLE001 (raised again by those who wait for it)
            with self._mutex:
                if self._workers.get(study.digest) is made:
                    del self._workers[study.digest]
            with contextlib.suppress(InvalidStateError):
                made.set_exception(error)


def read_sealed(text: str) -> StudyProtocol:
    """Return the study that a request brings.

    Raises:
        StudyError: it is none, or leaves open what only this clinic could fill in: the digest would not cover that.
    """
    if len(text) > MOST_STUDY_TEXT:
        raise StudyError(f"the study has {len(text)} characters; at most {MOST_STUDY_TEXT} are read")
    try:
        study = StudyProtocol.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the study"
        raise StudyError(f"the study cannot be read: {where}: {first['msg']}; update melfed") from None
    if study.model.weights is not None:
        # A path is not in the digest, and would let the coordinator name a file of the clinic.
        raise StudyError("the study names a path in model.weights; what travels must leave it null")
    if study.model.pretrained and study.model.weights_sha256 is None:
        raise StudyError("the study leaves open which weights it starts from; state model.weights_sha256")
    return study


def _smallest_noise(study: StudyProtocol) -> float:
    # Late: it loads what computes the noise, which most questions find loaded.
    from melfed.client.worker.guard import smallest_noise

    return smallest_noise(study)


def _check_leaves(answer: Packed, policy: ClinicPolicy) -> None:
    """Raise DeclinedError where a tensor of an answer may not leave."""
    check_tensors_may_leave(policy, list(group_of(TENSORS, answer.arrays)))


def _outcome(error: MelfedError) -> str:
    if isinstance(error, CancelledError):
        return "cancelled"
    return "declined" if isinstance(error, DeclinedError) else "refused"


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
