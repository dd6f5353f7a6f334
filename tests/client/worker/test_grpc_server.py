"""The worker's server on its socket: what it takes, refuses and tells."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from melfed.client.rpc import codec as wire
from melfed.client.rpc import remote as rpc
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.worker_pb2_grpc import WorkerStub
from melfed.client.worker.grpc_server import Servicer
from melfed.client.worker.work_queue import BUSY
from melfed.common.errors import CancelledError, ServiceError
from tests.client.fake_worker import STUDY, TENSORS, Clinic
from tests.client.served import remote, until


def test_all_questions_together_hold_no_more_than_one_may(clinic: Clinic) -> None:
    servicer = Servicer(clinic.service)
    half = wire.MOST_TENSOR_BYTES // 2

    def ask(size: int) -> pb.AnswerPart:
        return next(servicer.Train(iter([pb.QuestionPart(question=pb.Question(study="x", size=size))]), None))

    with servicer._room(half), servicer._room(half):
        assert ask(1).failure.reason == BUSY
        assert ask(wire.MOST_TENSOR_BYTES + 1).failure.reason == BUSY
        assert "cannot be read" in ask(0).failure.reason, "the study, not the room"
    assert "cannot be read" in ask(wire.MOST_TENSOR_BYTES).failure.reason
    assert servicer._held == 0


def test_a_bug_says_nothing_of_what_it_saw(clinic: Clinic, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    clinic.ready().error = ValueError("patient 17")
    worker = remote(folder)
    for ask in (worker.describe, lambda: worker.train(TENSORS, 1, STUDY.digest, "run")):
        with pytest.raises(ServiceError, match="an error in melfed itself") as raised:
            ask()
        assert "17" not in str(raised.value)
    assert "fake_worker.py" in caplog.text
    assert "patient 17" not in caplog.text


def parts(content: bytes, size: int, round_number: int = 1) -> list[pb.QuestionPart]:
    question = pb.Question(
        study=STUDY.model_dump_json(),
        digest=STUDY.digest,
        run="run",
        round=round_number,
        deadline_seconds=10,
        size=size,
    )
    return [pb.QuestionPart(question=question), *(pb.QuestionPart(tensors=part) for part in wire.parts(content))]


@pytest.mark.parametrize(
    ("content", "size", "reason"),
    [
        (b"no tensors", 10, "tensors cannot be read"),
        (b"", 0, "tensors cannot be read"),
        (b"x" * 100, 99, "100 bytes came, not 99"),
        (b"x" * 99, 100, "99 bytes came, not 100"),
        (b"", 2**63, "are too many"),
    ],
)
def test_damaged_questions_are_refused(clinic: Clinic, folder: Path, content: bytes, size: int, reason: str) -> None:
    with grpc.insecure_channel(rpc.address(folder / "w.sock"), rpc.CHANNEL) as channel:
        replies = list(WorkerStub(channel).Train(iter(parts(content, size)), timeout=10))
    assert [reply.failure.kind for reply in replies] == ["TensorError"]
    assert reason in replies[0].failure.reason


def test_no_question_at_all_is_refused(clinic: Clinic, folder: Path) -> None:
    with grpc.insecure_channel(rpc.address(folder / "w.sock"), rpc.CHANNEL) as channel:
        replies = list(WorkerStub(channel).Train(iter([]), timeout=10))
        assert [reply.failure.kind for reply in replies] == ["StudyError"]
        with pytest.raises(grpc.RpcError) as raised:
            list(WorkerStub(channel).Train(iter([pb.QuestionPart(tensors=b"x" * (3 << 20))]), timeout=10))
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_more_questions_than_can_wait_are_refused_and_health_and_cancel_are_not(clinic: Clinic, folder: Path) -> None:
    worker = clinic.ready()
    worker.go.clear()
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(remote(folder).train, TENSORS, 1, STUDY.digest, f"run {n}") for n in range(8)]
        until(lambda: len(clinic.service._jobs._open) == 8)
        with pytest.raises(ServiceError, match="busy"):
            remote(folder).train(TENSORS, 1, STUDY.digest, "one more")
        with grpc.insecure_channel(rpc.address(folder / "w.sock"), rpc.CHANNEL) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            for name in ("", "melfed.Worker"):
                state = check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
                assert state == health_pb2.HealthCheckResponse.SERVING
        assert rpc.cancel(folder / "w.sock") == 8
        for reply in waiting:
            with pytest.raises(CancelledError):
                reply.result(10)
