"""The Flower ClientApp: a thin messenger that carries a message to the clinic's worker and its answer back.

It imports no torch: Flower starts a new process for every message of a deployment, and that must be quick.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from melfed.client.rpc.api import PrivacyAccount, Worker, melfed_version
from melfed.client.rpc.remote import RemoteWorker
from melfed.common.errors import DeclinedError, MelfedError, StudyError
from melfed.common.messages import (
    ACCOUNT,
    COUNTS,
    DECLINED,
    DELIVERY,
    DESCRIPTION,
    IDENTITY,
    LEDGER,
    MESSAGE_VERSION,
    METRICS,
    MODEL,
    PACKED,
    REFUSED,
    REQUEST,
    SUMMARY,
    TENSORS,
    VALIDATION,
    pack,
    packed_bytes,
)
from melfed.common.tensors import PackedTensors, in_group

CLOCK_SECONDS = 300.0
"""By how much two clocks may differ: Flower takes no signature of a clock that is further off."""

WorkerOf = Callable[[Context, Message], Worker]
Answer = Callable[[Worker, Message], RecordDict]


def make_app(worker_of: WorkerOf) -> ClientApp:
    """Return a ClientApp whose messages are answered by the worker that `worker_of` finds for a Flower message.

    Messages (`melfed.server.flower.channel` is the other end): query `describe` gives counts; train gives tensors, the
    validation histogram of the model that came, and metrics; query `summarise` gives moments; evaluate gives the
    histograms of validation and test part; query `deliver` has a deployed clinic keep a finished model. What the worker
    cannot do comes back as a reply with the reason in `refused`, what its policy forbids with the reason in `declined`,
    and `identity` has the version of melfed then, and the clinic's name where it is known.
    """
    app = ClientApp()

    def answer(message: Message, context: Context, ask: Answer) -> Message:
        worker: Worker | None = None
        try:
            worker = worker_of(context, message)
            content = ask(worker, message)
        except MelfedError as error:
            kind = DECLINED if isinstance(error, DeclinedError) else REFUSED
            # The version above all: it may be the reason.
            identity = ConfigRecord({"version": melfed_version()})
            if worker is not None and worker.clinic is not None:
                identity["clinic"] = worker.clinic
            reason = str(error if worker is None else worker.told(error))
            content = RecordDict({kind: ConfigRecord({"reason": reason}), IDENTITY: identity})
        return Message(content, reply_to=message)

    @app.query(DESCRIPTION)
    def describe(message: Message, context: Context) -> Message:
        return answer(message, context, _describe)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, _train)

    @app.query(SUMMARY)
    def summarise(message: Message, context: Context) -> Message:
        return answer(message, context, _summarise)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, _evaluate)

    @app.query(DELIVERY)
    def deliver(message: Message, context: Context) -> Message:
        return answer(message, context, _deliver)

    return app


def deployed_app(socket: Path) -> ClientApp:
    """Return the ClientApp of a deployed clinic, whose worker answers on a Unix socket.

    A request must say its `protocol` (`MESSAGE_VERSION`) and bring its `study`; how long Flower keeps it is the
    worker's deadline.
    """
    return make_app(lambda context, message: _remote(socket, context, message))


def _remote(socket: Path, context: Context, message: Message) -> RemoteWorker:
    request = message.content.config_records.get(REQUEST, ConfigRecord())
    spoken = request.get("protocol")
    if spoken != MESSAGE_VERSION:
        says = f"protocol {spoken!r}" if spoken is not None else "a protocol without a version"
        raise StudyError(f"the coordinator speaks {says}, this clinic {MESSAGE_VERSION}; update melfed")
    study = request.get("study")
    if not isinstance(study, str):
        raise StudyError("the request brings no study; update melfed at the coordinator")
    metadata = message.metadata
    # An answer is of use until the message expires, by the coordinator's clock, which may differ from the clinic's.
    age = max(time.time() - metadata.created_at - CLOCK_SECONDS, 0.0)
    left = max(metadata.ttl - age, 1.0)
    return RemoteWorker(socket, study, left, context.run_id, str(request.get("run", "")))


def _describe(worker: Worker, message: Message) -> RecordDict:
    request = message.content.config_records.get(REQUEST, ConfigRecord())
    description = worker.describe(str(request.get("run", "")), bool(request.get("counts", True)))
    identity = ConfigRecord(
        {"clinic": description.clinic, "digest": description.digest, "version": description.version}
    )
    identity["synthetic"] = description.synthetic
    if description.budget is not None:
        identity["budget"] = description.budget
    if description.approved:
        identity["approved"] = list(description.approved)
    if description.round_minutes is not None:
        identity["round_minutes"] = description.round_minutes
    counts = MetricRecord({**description.counts, "noise": description.count_noise})
    return RecordDict({"identity": identity, COUNTS: counts})


def _train(worker: Worker, message: Message) -> RecordDict:
    request = message.content.config_records[REQUEST]
    reply = worker.train(_tensors(message), int(str(request["round"])), str(request["digest"]), str(request["run"]))
    metrics = MetricRecord({"weight": reply.weight})
    if reply.loss is not None:
        metrics["loss"] = reply.loss
    content = RecordDict({REQUEST: _asked(request), TENSORS: _record(reply.tensors), METRICS: metrics})
    if reply.validation is not None:
        content[VALIDATION] = _record(reply.validation.to_arrays())
    return _with_account(content, reply.account)


def _summarise(worker: Worker, message: Message) -> RecordDict:
    request = message.content.config_records[REQUEST]
    summarised = worker.summarise(str(request["digest"]), str(request["run"]))
    content = RecordDict({REQUEST: _asked(request)})
    for part, moments in summarised.items():
        content[part] = _record(moments.to_arrays())
    return _with_account(content, worker.account())


def _evaluate(worker: Worker, message: Message) -> RecordDict:
    request = message.content.config_records[REQUEST]
    asked = str(request["digest"]), str(request["run"]), int(str(request["round"]))
    scored = worker.evaluate(_tensors(message), *asked)
    content = RecordDict({REQUEST: _asked(request)})
    records: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    for name, histogram in scored.items():
        record, _, cell = name.partition("/")
        arrays = histogram.to_arrays()
        records.setdefault(record, {}).update(in_group(cell, arrays) if cell else arrays)
    for record, all_arrays in records.items():
        content[record] = _record(all_arrays)
    return _with_account(content, worker.account())


def _deliver(worker: Worker, message: Message) -> RecordDict:
    if not isinstance(worker, RemoteWorker):
        raise StudyError("a simulated clinic keeps no model: it is in the run's folder")
    request, model = (message.content.config_records.get(name, ConfigRecord()) for name in (REQUEST, MODEL))
    facts, certificate, signature = (model.get(name) for name in ("facts", "certificate", "signature"))
    if not (isinstance(facts, str) and isinstance(certificate, str) and isinstance(signature, bytes)):
        raise StudyError("the model came without its facts or its signature; update melfed at the coordinator")
    clinic = worker.keep(_tensors(message), str(request["digest"]), str(request["run"]), facts, signature, certificate)
    return RecordDict({MODEL: ConfigRecord({"clinic": clinic})})


def _asked(request: ConfigRecord) -> ConfigRecord:
    """Return what names a request, to go back with its answer; not the whole study."""
    return ConfigRecord({name: request[name] for name in ("round", "digest", "run")})


def _with_account(content: RecordDict, account: PrivacyAccount | None) -> RecordDict:
    if account is not None:
        numbers = MetricRecord({"epsilon": account.epsilon, "noise_multiplier": account.noise_multiplier})
        if account.evaluation_noise_multiplier is not None:
            numbers["evaluation"] = account.evaluation_noise_multiplier
        content[ACCOUNT], content[LEDGER] = numbers, ConfigRecord({"head": account.head})
    return content


def _record(arrays: Mapping[str, npt.NDArray[np.generic]]) -> ArrayRecord:
    return ArrayRecord({PACKED: Array(**pack(arrays))})


def _tensors(message: Message) -> Mapping[str, npt.NDArray[np.generic]]:
    """Return the global model as it came: a worker at the other end of a socket is sent the same bytes."""
    record = message.content.array_records.get(TENSORS, ArrayRecord())
    return PackedTensors(packed_bytes(TENSORS, record)) if record else {}
