"""The worker's gRPC server: `client/rpc/worker.proto` and gRPC's health service on one Unix socket."""

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from melfed.client.models.deliveries import Deliveries
from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Received
from melfed.client.rpc.remote import address
from melfed.client.rpc.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from melfed.client.worker.disclosure import BusyError, Telling
from melfed.client.worker.service import Receive, Service, read_sealed
from melfed.client.worker.work_queue import BUSY, StoppingError
from melfed.common.errors import CancelledError, MelfedError, ServiceError, StudyError
from melfed.common.tensors import views

NAME = "melfed.Worker"
WAITING = 8
"""Questions that may wait at a time; a clinic is in one or two studies, and each asks one."""
THREADS = WAITING + 8
"""So that health, cancel and refusals have theirs."""
OPTIONS = (
    ("grpc.max_receive_message_length", 2 * wire.PART_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.max_metadata_size", 16_384),
)

_log = logging.getLogger(__name__)


class Servicer(WorkerServicer):
    """Turns gRPC's calls into questions to the service, and errors into answers."""

    def __init__(
        self,
        service: Service,
        metrics_sent: Callable[[int], None] | None = None,
        telling: Telling | None = None,
        deliveries: Deliveries | None = None,
    ) -> None:
        self._service, self._sent, self._deliveries = service, metrics_sent, deliveries
        self._telling = telling or Telling()
        self._places = threading.BoundedSemaphore(WAITING)
        self._mutex, self._held = threading.Lock(), 0

    def Describe(self, request: pb.Question, context: grpc.ServicerContext) -> pb.DescribeReply:  # noqa: N802
        """Answer with a description, or with why there is none."""
        try:
            with self._place():
                return pb.DescribeReply(description=self._service.describe(request))
        except Exception as error:  # noqa: BLE001 (told apart there)
            return pb.DescribeReply(failure=self._failure(error, request, context))

    def Train(  # noqa: N802
        self, request_iterator: Iterator[pb.QuestionPart], context: grpc.ServicerContext
    ) -> Iterator[pb.AnswerPart]:
        """Answer one round."""
        return self._stream(self._service.train, request_iterator, context)

    def Summarise(  # noqa: N802
        self, request_iterator: Iterator[pb.QuestionPart], context: grpc.ServicerContext
    ) -> Iterator[pb.AnswerPart]:
        """Answer with a run's moments."""
        return self._stream(self._service.summarise, request_iterator, context)

    def Evaluate(  # noqa: N802
        self, request_iterator: Iterator[pb.QuestionPart], context: grpc.ServicerContext
    ) -> Iterator[pb.AnswerPart]:
        """Answer an evaluation."""
        return self._stream(self._service.evaluate, request_iterator, context)

    def Deliver(  # noqa: N802
        self, request_iterator: Iterator[pb.QuestionPart], context: grpc.ServicerContext
    ) -> pb.DeliverReply:
        """Keep a finished model, or say why not."""
        question = pb.Question()
        try:
            if self._deliveries is None:
                raise StudyError("this clinic keeps no models")
            with self._place():
                question = next(request_iterator, pb.QuestionPart()).question
                with self._room(question.size):
                    self._deliveries.take(question, lambda: _received(question, request_iterator))
        except Exception as error:  # noqa: BLE001 (told apart there)
            return pb.DeliverReply(failure=self._failure(error, question, context))
        return pb.DeliverReply(clinic=self._service.clinic)

    def Cancel(self, request: pb.CancelRequest, _context: grpc.ServicerContext) -> pb.Cancelled:  # noqa: N802
        """Call work off."""
        run = request.flower_run if request.HasField("flower_run") else None
        return pb.Cancelled(computations=self._service.cancel(run))

    def _stream(
        self,
        ask: Callable[[pb.Question, Receive], wire.Packed],
        questions: Iterator[pb.QuestionPart],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.AnswerPart]:
        question = pb.Question()
        try:
            with self._place():
                question = next(questions, pb.QuestionPart()).question
                with self._room(question.size):
                    packed = ask(question, lambda: _received(question, questions))
                head, files = wire.send(packed)
        except Exception as error:  # noqa: BLE001 (told apart there)
            yield pb.AnswerPart(failure=self._failure(error, question, context))
            return
        yield pb.AnswerPart(answer=head)
        for content in files:
            for part in wire.parts(content):
                yield pb.AnswerPart(tensors=part)
        if self._sent:
            self._sent(sum(map(len, files)))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise BusyError(BUSY)
        try:
            yield
        finally:
            self._places.release()

    @contextlib.contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Let all questions together hold as many bytes as one may; what is too large alone is refused by `join`."""
        size = min(size, wire.MOST_TENSOR_BYTES)
        with self._mutex:
            if self._held + size > wire.MOST_TENSOR_BYTES:
                raise BusyError(BUSY)
            self._held += size
        try:
            yield
        finally:
            with self._mutex:
                self._held -= size

    def _failure(self, error: Exception, question: pb.Question, context: grpc.ServicerContext) -> pb.Failure:
        if isinstance(error, StoppingError):
            # Not an answer: whoever asks waits for the next worker.
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        if not isinstance(error, MelfedError):
            # A bug. Its text can hold anything, so neither the messenger nor the log gets it: only where it was.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s in:\n%s", type(error).__name__, where)
        told = self._telling.told(error, private=_is_private(question))
        return wire.pack_failure(told, self._service.clinic)


def _is_private(question: pb.Question) -> bool:
    """Tell whether a question is about a private study; what cannot be read is taken for one."""
    try:
        return read_sealed(question.study).privacy is not None
    except StudyError:
        return True


def _received(question: pb.Question, questions: Iterator[pb.QuestionPart]) -> Mapping[str, Received]:
    try:
        return views(wire.join(question.size, (part.tensors for part in questions)))
    except grpc.RpcError:
        raise CancelledError("the messenger left before its question was complete") from None


class WorkerServer:
    """The server on its socket: it answers from `start` to `stop`."""

    def __init__(self, servicer: Servicer, socket: Path) -> None:
        self.socket = socket
        self._threads = ThreadPoolExecutor(THREADS, "questions")
        self._server = grpc.server(self._threads, options=OPTIONS)
        self.health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(2, "health")
        )
        add_WorkerServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]  # generated
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)

    def start(self) -> None:
        """Answer from now on.

        Raises:
            ServiceError: the socket cannot be made.
        """
        self.socket.unlink(missing_ok=True)
        try:
            self._server.add_insecure_port(address(self.socket))
        except RuntimeError as error:
            raise ServiceError(f"{self.socket}: the socket cannot be made: {error}") from None
        self._server.start()
        set_health(self.health, serving=True)

    def stop(self, seconds: float) -> None:
        """Take no more calls, and wait so long for those that are being answered."""
        set_health(self.health, serving=False)
        self._server.stop(seconds).wait()


def set_health(servicer: health.HealthServicer, *, serving: bool) -> None:
    """Say on gRPC's health service whether the worker answers."""
    states = health_pb2.HealthCheckResponse
    for name in ("", NAME):
        servicer.set(name, states.SERVING if serving else states.NOT_SERVING)
