"""A hostile clinic: its real worker's answers, tampered with on each of the ways to the coordinator.

`python hostile_worker.py ROLE --config clinic.yaml`, where `start` runs the clinic as melfed's own daemon would, with
these processes in the places of its own. What is done in a round is told by the file that the variable DEEDS names: a
line a round; each that was done is appended to the file DONE. A worker alone can tamper with what its socket carries;
what melfed's own messenger would not pass on, the messenger does, and what SuperNode would not send, SuperNode.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from melfed.client.approval.approvals import effective_policy
from melfed.client.config.clinic import ClinicConfig, read_clinic
from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from melfed.common.messages import PACKED, pack, unpack
from melfed.common.tensors import from_bytes

MEGABYTES = 200
Arrays = dict[str, np.ndarray]


def deeds() -> list[str]:
    """What is done, a round each."""
    return Path(os.environ["DEEDS"]).read_text().split()


def deed_of(round_number: object) -> str:
    """What is done in a round; nothing after the last."""
    return dict(enumerate(deeds(), 1)).get(int(str(round_number)), "")


def done(deed: str) -> None:
    """Say that something was done."""
    with Path(os.environ["DONE"]).open("a") as file:
        file.write(f"{deed}\n")


# At the worker's socket.


def _one(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays, Arrays], Arrays]:
    """Change the last tensor."""
    return lambda ours, _: {**ours, list(ours)[-1]: np.asarray(change(ours[list(ours)[-1]]), np.float32)}


TENSORS: dict[str, Callable[[Arrays, Arrays], Arrays]] = {
    "nan": _one(lambda tensor: tensor * np.nan),
    "infinite": _one(lambda tensor: tensor + np.inf),
    "shape": _one(lambda tensor: tensor[..., None]),
    "names": lambda ours, _: {f"{name}.bad": tensor for name, tensor in ours.items()},
    "norm": _one(lambda tensor: tensor + 1e6),
    "large": lambda ours, _: {
        name: np.random.default_rng(0).standard_normal(MEGABYTES * 250_000 // len(ours), np.float32) for name in ours
    },
    "poison": lambda ours, sent: {name: sent[name] - 10 * (ours[name] - sent[name]) for name in ours},
}
WEIGHTS = {"examples": 10**12, "zero": 0}


class HostileWorker(WorkerServicer):
    """Answers as the clinic's worker would, and tampers with what it has trained."""

    def __init__(self, config: ClinicConfig) -> None:
        self.config = config
        self.workers: dict[str, Any] = {}

    def _worker(self, question: pb.Question) -> Any:
        from melfed.client.data.loading import clinic_data
        from melfed.client.worker.guard import Protection
        from melfed.client.worker.worker import ClinicWorker
        from melfed.common.study.protocol import StudyProtocol

        study = StudyProtocol.model_validate_json(question.study)
        if study.digest not in self.workers:
            protection = Protection(self.config.ledger, effective_policy(self.config))
            self.workers[study.digest] = ClinicWorker(clinic_data(self.config, study), study, protection=protection)
        return self.workers[study.digest]

    def Describe(self, request: pb.Question, _context: grpc.ServicerContext) -> pb.DescribeReply:
        described = self._worker(request).describe(request.run, not request.without_counts)
        return pb.DescribeReply(description=wire.pack_description(described))

    def Train(self, request_iterator: Iterator[pb.QuestionPart], context: grpc.ServicerContext) -> Iterator[Any]:
        question, sent = _asked(request_iterator)
        deed = deed_of(question.round)
        reply = self._worker(question).train(sent, question.round, question.digest, question.run)
        if deed in TENSORS:
            reply = replace(reply, tensors=TENSORS[deed](reply.tensors, sent))
        if deed in WEIGHTS:
            reply = replace(reply, weight=WEIGHTS[deed])
        if deed in TENSORS or deed in WEIGHTS:
            done(deed)
        if deed == "endless":
            done(deed)
            endless = pb.Group(name="tensors", size=2**30)
            yield pb.AnswerPart(answer=pb.Answer(clinic=self.config.name, weight=reply.weight, groups=[endless]))
            while context.is_active():
                yield pb.AnswerPart(tensors=bytes(1))
                threading.Event().wait(0.2)
        yield from _parts(wire.pack_trained(reply, self.config.name))

    def Evaluate(self, request_iterator: Iterator[pb.QuestionPart], _context: grpc.ServicerContext) -> Iterator[Any]:
        question, sent = _asked(request_iterator)
        scored = self._worker(question).evaluate(sent, question.digest, question.run)
        yield from _parts(wire.pack_scored(scored, None, self.config.name))

    def Cancel(self, _request: pb.CancelRequest, _context: grpc.ServicerContext) -> pb.Cancelled:
        return pb.Cancelled()


def _asked(questions: Iterator[pb.QuestionPart]) -> tuple[pb.Question, Arrays]:
    question = next(questions).question
    return question, from_bytes(wire.join(question.size, (part.tensors for part in questions)))


def _parts(packed: wire.Packed) -> Iterator[pb.AnswerPart]:
    head, files = wire.send(packed)
    yield pb.AnswerPart(answer=head)
    yield from (pb.AnswerPart(tensors=part) for content in files for part in wire.parts(content))


def worker(config: ClinicConfig) -> None:
    from melfed.client.config.folders import prepare_worker
    from melfed.client.rpc.remote import address

    prepare_worker(config)
    config.socket.unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(8))
    add_WorkerServicer_to_server(HostileWorker(config), server)
    server.add_insecure_port(address(config.socket))
    server.start()
    server.wait_for_termination()


# In the messenger, where Flower's message is made.


def messenger(config: ClinicConfig) -> None:
    from flwr.app import Array, ArrayRecord, ConfigRecord

    import melfed.client.flower.superexec
    from melfed.client.flower import client_app as app

    honest, honestly_scored = app._train, app._evaluate

    def held(record: Any) -> dict[str, Any]:
        return unpack("tensors", record)

    def packed(arrays: Mapping[str, Any]) -> Any:
        return ArrayRecord({PACKED: Array(**pack(arrays))})

    def train(remote: Any, message: Any) -> Any:
        deed, content = deed_of(message.content["request"]["round"]), honest(remote, message)
        asked = content["request"]
        garbage = {"negatives": np.full(7, -1.0), "what": np.zeros((2, 2))}
        changes: dict[str, Mapping[str, Any]] = {
            "float64": {
                "tensors": packed({name: array.astype(np.float64) for name, array in held(content["tensors"]).items()})
            },
            "digest": {"request": ConfigRecord({**asked, "digest": "0" * 64})},
            "round": {"request": ConfigRecord({**asked, "round": int(asked["round"]) - 1})},
            "run": {"request": ConfigRecord({**asked, "run": "another"})},
            "histogram": {"validation": packed(garbage)},
        }
        content.update(changes.get(deed, {}))
        if deed == "negative":
            content["metrics"]["weight"] = -5
        if deed == "loss":
            content["metrics"]["loss"] = float("nan")
        if deed in changes or deed in ("negative", "loss"):
            done(deed)
        return content

    def evaluate(remote: Any, message: Any) -> Any:
        content = honestly_scored(remote, message)
        if "histogram" in deeds():
            content["test"] = packed({name: -array for name, array in held(content["test"]).items()})
        return content

    app._train, app._evaluate = train, evaluate
    melfed.client.flower.superexec.main(config)


# In SuperNode, which announces a reply and sends its parts.


def supernode(config: ClinicConfig) -> None:
    # Not before its own `main` has set the environment does this one load Flower.
    import melfed.client.flower.supernode

    adapt = melfed.client.flower.supernode.adapt

    def adapted(*arguments: Any) -> None:
        adapt(*arguments)
        from melfed.client.flower import relay as carrier

        carrier._send = partial(_send, carrier._send)

    melfed.client.flower.supernode.adapt = adapted
    melfed.client.flower.supernode.main(config)


def _send(honest: Callable[..., bool], contents: Any, announce: Any, push_object: Any) -> bool:
    from flwr.app import ConfigRecord
    from flwr.proto.message_pb2 import ObjectTree

    reply, _, seconds = announce.args
    deed = deed_of(reply.metadata.group_id or 0) if reply.metadata.message_type == "train" else ""
    if deed == "silence":
        done(deed)
        announce()
        return True
    if deed == "nonsense":
        done(deed)
        record = ConfigRecord({"no": "message"})
        reply.metadata.__dict__["_message_id"] = record.object_id
        tree = ObjectTree(object_id=record.object_id)
        return honest(
            {record.object_id: record.deflate()}.__getitem__, partial(announce.func, reply, tree, seconds), push_object
        )
    return honest(contents, announce, push_object)


def start(config: ClinicConfig) -> None:
    from melfed.client.cli.daemon import _until_told
    from melfed.client.daemon.daemon import ClientDaemon

    def command(here: ClinicConfig, role: str) -> tuple[str, ...]:
        return (sys.executable, __file__, role, "--config", str(here.path))

    ClientDaemon(config, command=command).run(_until_told())


if __name__ == "__main__":
    role, _, path = sys.argv[1:]
    os.umask(0o077)
    {"start": start, "worker": worker, "messenger": messenger, "supernode": supernode}[role](read_clinic(Path(path)))
