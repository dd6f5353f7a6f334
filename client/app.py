"""The Flower ClientApp: a thin messenger that carries a message to the clinic's worker and its answer back.

It imports no torch: Flower starts a new process for every message of a deployment, and that must be quick.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from common.errors import DeclinedError, MelfedError, StudyError
from common.tensors import TensorError

if TYPE_CHECKING:
    from client.worker import Account, ClinicWorker

TELLING_NOTHING = (DeclinedError, StudyError, TensorError)
"""Errors whose text is about the study, the model that came, or the clinic's policy: it may leave a clinic."""

_log = logging.getLogger(__name__)

WorkerOf = Callable[[Context], "ClinicWorker"]
Answer = Callable[["ClinicWorker", Message], RecordDict]


def make_app(worker_of: WorkerOf) -> ClientApp:
    """Return a ClientApp whose messages are answered by the worker that `worker_of` finds for a Flower context.

    Messages (`server.exchange` is the other end): query `describe` gives counts; train gives tensors, the validation
    histogram of the model that came, and metrics; evaluate gives the histograms of validation and test part. What the
    worker cannot do comes back as a reply with the reason in `refused`, what its policy forbids with the reason in
    `declined`.
    """
    app = ClientApp()

    def answer(message: Message, context: Context, ask: Answer) -> Message:
        worker = None
        try:
            worker = worker_of(context)
            content = ask(worker, message)
        except MelfedError as error:
            kind = "declined" if isinstance(error, DeclinedError) else "refused"
            reason = str(error)
            if worker is not None and worker.discreet and not isinstance(error, TELLING_NOTHING):
                _log.error("%s", error)
                reason = f"{type(error).__name__}; the clinic's own log says more"
            content = RecordDict({kind: ConfigRecord({"reason": reason})})
        return Message(content, reply_to=message)

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        return answer(message, context, _describe)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, _train)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, _evaluate)

    return app


def _describe(worker: "ClinicWorker", _message: Message) -> RecordDict:
    description = worker.describe()
    identity = ConfigRecord({"clinic": description.clinic, "digest": description.digest})
    return RecordDict({"identity": identity, "counts": MetricRecord(dict(description.counts))})


def _train(worker: "ClinicWorker", message: Message) -> RecordDict:
    request = message.content.config_records["request"]
    reply = worker.train(_tensors(message), int(str(request["round"])), str(request["digest"]), str(request["run"]))
    metrics = MetricRecord({"images": reply.images, "seconds": reply.seconds})
    if reply.loss is not None:
        metrics["loss"] = reply.loss
    content = RecordDict({"request": request, "tensors": _record(reply.tensors), "metrics": metrics})
    if reply.validation is not None:
        content["validation"] = _record(reply.validation.to_arrays())
    return _with_account(content, reply.account)


def _evaluate(worker: "ClinicWorker", message: Message) -> RecordDict:
    request = message.content.config_records["request"]
    scored = worker.evaluate(_tensors(message), str(request["digest"]), str(request["run"]))
    content = RecordDict({"request": request})
    for part, histogram in scored.items():
        content[part] = _record(histogram.to_arrays())
    return _with_account(content, worker.account())


def _with_account(content: RecordDict, account: "Account | None") -> RecordDict:
    if account is not None:
        numbers = MetricRecord({"epsilon": account.epsilon, "noise_multiplier": account.noise_multiplier})
        if account.evaluation_noise_multiplier is not None:
            numbers["evaluation"] = account.evaluation_noise_multiplier
        content["account"], content["ledger"] = numbers, ConfigRecord({"head": account.head})
    return content


def _record(arrays: Mapping[str, npt.NDArray[np.generic]]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _tensors(message: Message) -> dict[str, npt.NDArray[np.generic]]:
    record = message.content.array_records.get("tensors", ArrayRecord())
    try:
        return {name: array.numpy() for name, array in record.items()}
    except Exception as error:  # noqa: BLE001 (bytes from outside: NumPy lets its tokenizer's and allocator's out)
        raise TensorError(f"tensors cannot be read: {error}") from None
