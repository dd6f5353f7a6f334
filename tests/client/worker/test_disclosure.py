"""What leaves a clinic of why it does not answer: through its real socket, whoever waits, whatever was raised."""

import logging
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from melfed.client.rpc import codec as wire
from melfed.client.rpc import remote as rpc
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.remote import RemoteWorker
from melfed.client.rpc.worker_pb2_grpc import WorkerStub
from melfed.client.worker.disclosure import CANNOT, BusyError, Telling, in_full, written
from melfed.client.worker.grpc_server import WAITING
from melfed.client.worker.work_queue import StoppingError
from melfed.common import errors
from melfed.common.errors import (
    BudgetError,
    CancelledError,
    DataError,
    DeclinedError,
    LedgerError,
    MelfedError,
    ServiceError,
    StudyError,
)
from melfed.common.tensors import TensorError
from tests.client.fake_worker import PRIVATE, STUDY, TENSORS, Clinic
from tests.client.served import served

FIGURES = "of ε = 2.7182 at δ = 1e-05, 2.4142 is spent and 0.3040 is left; this needs 0.5772"
SECRET = re.compile(r"2\.7182|2\.4142|0\.3040|0\.5772|ISIC_0001|patient 17|/secret")
ALLOWED = {"DeclinedError", "StudyError", "TensorError", "CancelledError", "ServiceError"}

KINDS: list[type[Exception]] = [
    *(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MelfedError)),
    TensorError,
    ValueError,
    KeyError,
    RuntimeError,
]
THEIRS = (DataError, LedgerError, errors.StorageError, errors.WeightsError, errors.PolicyError, errors.RunError)


def raised(kind: type[Exception]) -> Exception:
    """An error of this class, whose text holds what must not leave; those that are told must not hold it."""
    if kind is BudgetError:
        return BudgetError("too little is left of these patients' ε", FIGURES)
    if issubclass(kind, DeclinedError | StudyError | TensorError | CancelledError):
        return kind("what holds for any data")
    return kind(f"patient 17, ISIC_0001.jpg in /secret/data: {FIGURES}")


@pytest.fixture
def clinic() -> Iterator[tuple[Path, Clinic]]:
    with tempfile.TemporaryDirectory(prefix="w") as name, served(Path(name)) as clinic:
        yield Path(name) / "w.sock", clinic


def remote(socket: Path, study=PRIVATE, seconds: float = 20.0) -> RemoteWorker:
    return RemoteWorker(socket, study.model_dump_json(), seconds, 7, "run")


def asks(socket: Path, study=PRIVATE) -> list:
    return [
        lambda: remote(socket, study).describe(),
        lambda: remote(socket, study).train(TENSORS, 1, study.digest, "run"),
        lambda: remote(socket, study).evaluate(TENSORS, study.digest, "run"),
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_error_of_any_class_takes_what_is_the_clinics_own_out_of_its_socket(
    clinic: tuple[Path, Clinic], kind: type[Exception]
) -> None:
    socket, here = clinic
    here.ready(PRIVATE).error = raised(kind)
    for ask in asks(socket):
        with pytest.raises(MelfedError) as caught:
            ask()
        assert type(caught.value).__name__ in ALLOWED
        assert not SECRET.search(str(caught.value))


def test_a_private_studys_failures_are_one_whatever_they_are(clinic: tuple[Path, Clinic]) -> None:
    socket, here = clinic
    for kind in (*THEIRS, ValueError, KeyError):
        here.ready(PRIVATE).error = raised(kind)
        for ask in asks(socket):
            with pytest.raises(ServiceError) as caught:
                ask()
            assert (type(caught.value), str(caught.value)) == (ServiceError, CANNOT), kind


def test_a_failure_in_the_making_of_the_worker_is_the_same_one(clinic: tuple[Path, Clinic]) -> None:
    socket, here = clinic
    for error in (DataError("patient 17"), StopIteration("patient 17"), LedgerError("patient 17")):

        def failing(_study: object, error: Exception = error) -> None:
            raise error

        here.service._warm._make = failing
        for ask in asks(socket):
            with pytest.raises(ServiceError, match=f"^{CANNOT}$"):
                ask()


@pytest.mark.parametrize("queued", [False, True])
def test_all_who_wait_for_a_job_hear_the_same_and_no_figure(clinic: tuple[Path, Clinic], queued: bool) -> None:
    """What joins a job, and what is queued behind another, raises errors that were made anew once."""
    socket, here = clinic
    worker = here.ready(PRIVATE)
    worker.go.clear()
    with ThreadPoolExecutor(4) as pool:
        if queued:
            pool.submit(remote(socket, PRIVATE).evaluate, TENSORS, PRIVATE.digest, "another run")
            assert worker.begun.wait(60)
        worker.error = BudgetError("too little is left", FIGURES)
        waiting = [pool.submit(remote(socket).train, TENSORS, 1, PRIVATE.digest, "run") for _ in range(3)]
        assert worker.begun.wait(60)
        while len(here.service._jobs._open) < (2 if queued else 1):
            assert not waiting[0].done()
        worker.go.set()
        heard = [one.exception(30) for one in waiting]
    assert {(type(error), str(error)) for error in heard} == {(DeclinedError, "too little is left")}
    assert "2.4142" in here.log.read_text(), "the clinic's own people see it"


def test_nothing_but_the_messages_themselves_is_on_the_wire(clinic: tuple[Path, Clinic]) -> None:
    """Bytes, details and trailing metadata of each call, with every class raised."""
    socket, here = clinic
    with grpc.insecure_channel(rpc.address(socket), rpc.CHANNEL) as channel:
        stub = WorkerStub(channel)
        for kind in KINDS:
            here.ready(PRIVATE).error = raised(kind)
            question = pb.Question(
                study=PRIVATE.model_dump_json(), digest=PRIVATE.digest, run="run", round=1, deadline_seconds=20
            )
            call = stub.Describe.with_call(question, timeout=20)
            heard = [call[0].SerializeToString(), repr(call[1].trailing_metadata()).encode()]
            stream = stub.Train(iter([pb.QuestionPart(question=question)]), timeout=20)
            heard += [part.SerializeToString() for part in stream]
            heard += [str(stream.details()).encode(), repr(stream.trailing_metadata()).encode()]
            text = b" ".join(heard).decode("utf-8", "replace")
            assert not SECRET.search(text), kind


def test_a_study_that_cannot_be_read_is_taken_for_a_private_one(
    clinic: tuple[Path, Clinic], monkeypatch: pytest.MonkeyPatch
) -> None:
    socket, here = clinic
    monkeypatch.setattr(here.service, "describe", lambda _question: (_ for _ in ()).throw(LedgerError("/secret")))
    worker = RemoteWorker(socket, "{", 20.0, 7, "run")
    with pytest.raises(ServiceError, match=f"^{CANNOT}$"):
        worker.describe()


def test_without_privacy_the_class_is_told_and_the_text_is_not(clinic: tuple[Path, Clinic]) -> None:
    socket, here = clinic
    for kind in THEIRS:
        here.ready(STUDY).error = raised(kind)
        for ask in asks(socket, STUDY):
            # The log itself names no image of a DataError: the doctor says more of it.
            where = "melfed-client doctor, there, says more" if kind is DataError else "the clinic's own log says more"
            with pytest.raises(kind, match=f"^{kind.__name__}; {where}$"):
                ask()
    here.ready(STUDY).error = ValueError("patient 17")
    with pytest.raises(ServiceError, match="an error in melfed itself"):
        remote(socket, STUDY).describe()


def test_a_clinic_that_is_busy_says_so(clinic: tuple[Path, Clinic]) -> None:
    socket, here = clinic
    worker = here.ready(PRIVATE)
    worker.go.clear()
    with ThreadPoolExecutor(WAITING + 1) as pool:
        first = pool.submit(remote(socket).train, TENSORS, 1, PRIVATE.digest, "run")
        assert worker.begun.wait(60)
        with pytest.raises(ServiceError, match="was busy with other work"):
            remote(socket, PRIVATE, 0.3).train(TENSORS, 1, PRIVATE.digest, "other")
        worker.go.set()
        first.result(30)


# The one place itself.


def test_the_figures_are_told_where_the_clinic_tells_its_budget_and_in_a_simulation() -> None:
    error = BudgetError("too little is left", FIGURES)
    for telling in (Telling(budget=True), Telling(everything=True)):
        told = telling.told(error, private=True)
        assert (type(told), str(told)) == (DeclinedError, f"too little is left: {FIGURES}")
    assert str(Telling().told(error, private=True)) == "too little is left"
    assert in_full(error) == f"too little is left: {FIGURES}"
    assert in_full(BudgetError("too little is left")) == "too little is left"


@pytest.mark.parametrize("kind", THEIRS)
def test_a_simulated_clinic_tells_its_user_everything(kind: type[MelfedError]) -> None:
    error = kind("ISIC_0001.jpg cannot be read")
    assert Telling(everything=True).told(error, private=True) is error


def test_the_reasons_that_hold_for_any_data_are_told_in_full() -> None:
    for error in (
        DeclinedError("not approved"),
        StudyError("a key"),
        TensorError("a shape"),
        CancelledError("late"),
        BusyError("busy"),
        StoppingError("stopping"),
    ):
        assert Telling().told(error, private=True) is error


def test_what_is_not_told_is_in_the_log_of_the_process_but_for_names_of_patients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        for error in (LedgerError("/state/ledger.jsonl: line 3"), DataError("ISIC_0001.jpg"), ValueError("patient 17")):
            Telling().told(error, private=True)
    assert "/state/ledger.jsonl: line 3" in caplog.text
    assert "see melfed-client doctor" in caplog.text
    assert not SECRET.search(caplog.text)
    assert written(ValueError("patient 17")) == "a bug (ValueError): the process's log says where"


def test_an_error_is_packed_as_it_is_told() -> None:
    told = Telling().told(BudgetError("too little", FIGURES), private=True)
    assert wire.pack_failure(told, "north") == pb.Failure(kind="DeclinedError", reason="too little", clinic="north")
