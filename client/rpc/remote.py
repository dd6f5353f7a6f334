"""The messenger's end of the worker's socket: no torch, and quick to import, since every message has its own process.

A worker that is killed and started again costs no message: questions are asked anew until their deadline, and the
worker answers a repeated one from what it has stored.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import grpc

from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Description, PrivacyAccount, Received, Scored, Summarised, TrainReply
from melfed.client.rpc.peer_credentials import knock
from melfed.client.rpc.worker_pb2_grpc import WorkerStub
from melfed.common.errors import CancelledError, MelfedError, ServiceError, StudyError
from melfed.common.tensors import to_bytes

GRACE_SECONDS = 5.0
"""By how much the worker's own word on a deadline may be late."""
AGAIN_SECONDS = 0.25
"""Between two questions to a worker that was there and went."""
CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 2 * wire.PART_BYTES),
)
"""Of a channel to a worker: no proxy, and back within a second of the worker's return."""

Result = TypeVar("Result")


def address(socket: Path) -> str:
    """Return a Unix socket as gRPC names it."""
    return f"unix:{quote(str(socket.absolute()))}"


@contextlib.contextmanager
def _stub(socket: Path) -> Iterator[WorkerStub]:
    with grpc.insecure_channel(address(socket), CHANNEL) as channel:
        yield WorkerStub(channel)  # type: ignore[no-untyped-call]  # generated


class RemoteWorker:
    """A clinic's worker at the other end of a Unix socket: answers, and fails, as the worker itself does.

    Every method waits for `deadline_seconds` after the object was made, a few seconds more at most, and raises

    - ServiceError: no worker answers there;
    - CancelledError: the work was called off, or could not be done in time;
    - DeclinedError, StudyError, TensorError and the other classes of `melfed.common.errors`, as the worker raised them.
    """

    def __init__(self, socket: Path, study_text: str, deadline_seconds: float, flower_run: int, run: str = "") -> None:
        """Take what goes with every question: the study as JSON, how long answers are of use, Flower's run and ours."""
        self.socket, self.study_text, self.flower_run, self.run = socket, study_text, flower_run, run
        self._deadline = time.monotonic() + deadline_seconds
        self._clinic: str | None = None
        self._account: PrivacyAccount | None = None

    @property
    def clinic(self) -> str | None:
        """The clinic's name; None until its worker has answered."""
        return self._clinic

    def told(self, error: MelfedError) -> MelfedError:
        """Return the error: the worker has seen to what may leave."""
        return error

    def describe(self, run: str = "", counts: bool = True) -> Description:
        """Return what the clinic says of itself to a run, with its counts or without.

        Args:
            run: its identity; "": that of the run that this object was made for.
            counts: whether these are asked for.
        """

        def ask(stub: WorkerStub, seconds: float) -> pb.DescribeReply:
            question = self._question(seconds)
            question.run, question.without_counts = run or question.run, not counts
            reply: pb.DescribeReply = stub.Describe(question, timeout=seconds + GRACE_SECONDS, wait_for_ready=True)
            return reply

        reply = self._until_answered(ask)
        if reply.HasField("failure"):
            raise self._failure(reply.failure)
        self._clinic = reply.description.clinic
        return wire.unpack_description(reply.description)

    def train(self, tensors: Mapping[str, Received], round_number: int, digest: str, run: str = "") -> TrainReply:
        """Train one round (1-based) from the global model."""
        asked = pb.Question(digest=digest, run=run, round=_round(round_number))
        return wire.unpack_trained(self._ask("Train", tensors, asked))

    def summarise(self, digest: str, run: str = "") -> Summarised:
        """Return the moments of the study's features."""
        return wire.unpack_summarised(self._ask("Summarise", {}, pb.Question(digest=digest, run=run, round=1)))

    def evaluate(self, tensors: Mapping[str, Received], digest: str, run: str = "", round_number: int = 0) -> Scored:
        """Return the histograms of the model's scores on validation and test part."""
        asked = pb.Question(digest=digest, run=run, round=_round(round_number))
        return wire.unpack_scored(self._ask("Evaluate", tensors, asked))

    def keep(
        self, tensors: Mapping[str, Received], digest: str, run: str, facts: str, signature: bytes, certificate: str
    ) -> str:
        """Have the clinic keep a finished model of a run; return the clinic's name.

        Args:
            tensors: those that learnt.
            digest: of the study.
            run: its identity.
            facts: what is told of the model, JSON.
            signature: of tensors and facts.
            certificate: the coordinator's, PEM.
        """
        delivery = pb.Delivery(facts=facts, signature=signature, certificate=certificate)
        asked = pb.Question(digest=digest, run=run, delivery=delivery)

        def ask(stub: WorkerStub, seconds: float) -> pb.DeliverReply:
            parts = self._questions(seconds, asked, to_bytes(tensors))
            reply: pb.DeliverReply = stub.Deliver(parts, timeout=seconds + GRACE_SECONDS, wait_for_ready=True)
            return reply

        reply = self._until_answered(ask)
        self._clinic = reply.clinic or None
        if reply.HasField("failure"):
            raise self._failure(reply.failure)
        return reply.clinic

    def account(self) -> PrivacyAccount | None:
        """Return what came with the last answer."""
        return self._account

    def _ask(self, method: str, tensors: Mapping[str, Received], asked: pb.Question) -> wire.Sent:
        content = to_bytes(tensors)

        def ask(stub: WorkerStub, seconds: float) -> wire.Sent:
            parts, call = self._questions(seconds, asked, content), getattr(stub, method)
            return self._receive(call(parts, timeout=seconds + GRACE_SECONDS, wait_for_ready=True))

        sent = self._until_answered(ask)
        self._account = wire.account_of(sent.head)
        return sent

    def _questions(self, seconds: float, asked: pb.Question, content: bytes) -> Iterator[pb.QuestionPart]:
        question = self._question(seconds)
        question.MergeFrom(asked)
        question.size = len(content)
        yield pb.QuestionPart(question=question)
        for part in wire.parts(content):
            yield pb.QuestionPart(tensors=part)

    def _receive(self, replies: Iterator[pb.AnswerPart]) -> wire.Sent:
        first = next(replies, pb.AnswerPart())
        if first.HasField("failure"):
            raise self._failure(first.failure)
        self._clinic = first.answer.clinic
        return wire.receive(first.answer, (part.tensors for part in replies))

    def _question(self, seconds: float) -> pb.Question:
        flower_run = self.flower_run & (2**64 - 1)
        return pb.Question(study=self.study_text, deadline_seconds=seconds, flower_run=flower_run, run=self.run)

    def _failure(self, failure: pb.Failure) -> MelfedError:
        self._clinic = failure.clinic or None
        return wire.unpack_failure(failure)

    def _until_answered(self, ask: Callable[[WorkerStub, float], Result]) -> Result:
        """Ask, again where the worker went away meanwhile, until there is an answer or no time is left."""
        with contextlib.suppress(PermissionError):  # a worker that just starts makes its socket, and then opens it
            if knock(self.socket) == "refuses":
                # No waiting mends that: somebody has to.
                raise ServiceError(_silence(self.socket))
        while True:
            left = self._deadline - time.monotonic()
            try:
                with _stub(self.socket) as stub:
                    return ask(stub, max(left, 0.1))
            except grpc.RpcError as error:
                if error.code() not in _LATE | _GONE:
                    raise ServiceError(_unheard(self.socket, error)) from None
                if error.code() in _LATE or left <= AGAIN_SECONDS:
                    raise self._overdue() from None
            # Nothing tells when a worker that refuses new work has left: that it listens no more is seen by asking.
            threading.Event().wait(AGAIN_SECONDS)

    def _overdue(self) -> MelfedError:
        if reachable(self.socket):
            return CancelledError("the worker did not answer before the deadline")
        return ServiceError(_silence(self.socket))


_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""The connection broke, or the worker is stopping."""
_LATE = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED})


def cancel(socket: Path, flower_run: int | None = None, seconds: float = 5.0) -> int:
    """Call off what the worker computes for one of Flower's runs (None: for all); returns how many computations.

    Raises:
        ServiceError: the worker does not answer.
    """
    request = pb.CancelRequest(flower_run=None if flower_run is None else flower_run & (2**64 - 1))
    try:
        with _stub(socket) as stub:
            reply: pb.Cancelled = stub.Cancel(request, timeout=seconds)
    except grpc.RpcError as error:
        raise ServiceError(_unheard(socket, error)) from None
    return reply.computations


def reachable(socket: Path, seconds: float = 1.0) -> bool:
    """Tell whether something that speaks gRPC listens on a worker's socket."""
    with grpc.insecure_channel(address(socket), CHANNEL) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
    return True


def _unheard(socket: Path, error: grpc.RpcError) -> str:
    code = error.code()
    if code in _GONE | _LATE:
        return _silence(socket)
    return f"the worker on {socket} cannot be asked ({code.name}); are both of one melfed version?"


def _silence(socket: Path) -> str:
    """Return why a worker does not answer, and what to do."""
    try:
        refused = knock(socket) == "refuses"
    except PermissionError:
        refused = True
    if refused:
        mend = "set messenger.user in clinic.yaml to the messenger's user, and restart the worker"
        return f"the worker on {socket} refuses the messenger's user (uid {os.geteuid()}); {mend}"
    return f"the worker does not answer on {socket}; is melfed-client worker running?"


def _round(number: int) -> int:
    """Return a round's number as it came. Raises StudyError where no message can hold it."""
    if not 0 <= number < 2**31:
        raise StudyError(f"round {number} is no round of a study")
    return number
