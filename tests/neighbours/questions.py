"""A coordinator that asks a clinic's worker everything that can be asked, and keeps whatever comes back."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from melfed.client.approval.approvals import effective_policy
from melfed.client.config.clinic import ClinicConfig
from melfed.client.ledger.ledger import verify
from melfed.client.ledger.witness import Witness
from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.worker.grpc_server import Servicer
from melfed.client.worker.outbox import Outbox
from melfed.client.worker.process import _stamp, _workers
from melfed.client.worker.service import Service
from melfed.common.audit.log import AuditLog
from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors, to_bytes
from tests.neighbours.coupling import World

CPU = torch.device("cpu")


class _Context:
    """What the servicer sees of gRPC."""

    def abort(self, code: object, details: str) -> NoReturn:
        raise AssertionError(f"{code}: {details}")


class Coordinator:
    """Asks one clinic; every answer, to its last byte, is kept in the clinic's world."""

    def __init__(self, config: ClinicConfig, world: World) -> None:
        self.config, self.world = config, world
        audit, policy = AuditLog(config.audit_log, "worker"), effective_policy(config)
        self.service = Service(
            config.name,
            _workers(config, CPU, Witness(config.ledger, audit)),
            lambda: policy,
            Outbox(config.worker_state / "outbox"),
            audit,
            stamp=_stamp(config),
        )
        self._servicer = Servicer(self.service)

    def describe(self, study: StudyProtocol | str, run: str = "") -> None:
        """Ask what the clinic says of itself."""
        reply = self._servicer.Describe(_question(study, run, 0), _Context())
        self._keep(f"describe {run}", reply)

    def train(self, study: StudyProtocol, tensors: Mapping[str, np.ndarray], number: int, run: str, **of: str) -> None:
        """Ask for a round."""
        question = _question(study, run, number, **of)
        for part in self._servicer.Train(_parts(question, tensors), _Context()):
            self._keep(f"train {number} {run}", part)

    def summarise(self, study: StudyProtocol, run: str, **of: str) -> None:
        """Ask for a run's moments."""
        for part in self._servicer.Summarise(_parts(_question(study, run, 1, **of), {}), _Context()):
            self._keep(f"summarise {run}", part)

    def evaluate(self, study: StudyProtocol, tensors: Mapping[str, np.ndarray], run: str, **of: str) -> None:
        """Ask for an evaluation."""
        for part in self._servicer.Evaluate(_parts(_question(study, run, 0, **of), tensors), _Context()):
            self._keep(f"evaluate {run}", part)

    def _keep(self, label: str, message: pb.DescribeReply | pb.AnswerPart) -> None:
        self.world.leaving.append((label, message.SerializeToString(deterministic=True)))


@contextlib.contextmanager
def asked(config: ClinicConfig, world: World) -> Iterator[Coordinator]:
    """Let a coordinator ask; afterwards the world knows what the ledger has charged."""
    coordinator = Coordinator(config, world)
    try:
        yield coordinator
    finally:
        coordinator.service.stop(5)
    if config.ledger.exists():
        world.charged = [
            (row.purpose, row.noise_multiplier, row.steps, row.sampling_rate)
            for row in verify(config.ledger).rows
            if row.status == "reserved"
        ]


def whole_study(coordinator: Coordinator, study: StudyProtocol, models: list[Tensors]) -> None:
    """Ask all that a study's coordinator can: its questions, the same ones again, and others than were foreseen.

    Args:
        coordinator: of the clinic.
        study: of two rounds.
        models: four of them, all different.
    """
    first, second, third, last = models
    coordinator.describe(study)
    for _ in range(2):
        coordinator.describe(study, "run")
    for _ in range(2):
        coordinator.train(study, first, 1, "run")
    coordinator.world.call_off = lambda: coordinator.service.cancel(None)
    coordinator.train(study, second, 2, "run")
    coordinator.world.call_off = None
    coordinator.train(study, third, 2, "run")
    for _ in range(2):
        coordinator.evaluate(study, last, "run")
    coordinator.describe(study, "run")
    # Another run, which begins in the middle, and an older question of the one before.
    coordinator.train(study, last, 2, "other")
    coordinator.train(study, first, 1, "run")
    coordinator.describe(study, "other")
    odd_questions(coordinator, study, first)


def one_round(coordinator: Coordinator, study: StudyProtocol, models: list[Tensors]) -> None:
    """Ask all that can be asked in a study of one round, and what belongs to others.

    Args:
        coordinator: of the clinic.
        study: of one round.
        models: two of them.
    """
    first, second = models
    coordinator.describe(study, "run")
    for _ in range(2):
        coordinator.summarise(study, "run")
    coordinator.train(study, first, 1, "run")
    for model in (first, first, second):
        coordinator.evaluate(study, model, "run")
    coordinator.summarise(study, "other")
    coordinator.summarise(study, "odd", digest="f" * 64)
    coordinator.summarise(study.with_changes("federation", mode="federated"), "odd")
    coordinator.summarise(study, "run")


def solved_start(coordinator: Coordinator, study: StudyProtocol, models: list[Tensors]) -> None:
    """Ask all that can be asked in a study whose rounds begin at a solved head, and what it answers but once.

    Args:
        coordinator: of the clinic.
        study: of two rounds.
        models: three of them.
    """
    first, second, last = models
    coordinator.describe(study, "run")
    for _ in range(2):
        coordinator.summarise(study, "run")
    coordinator.train(study, first, 1, "run")
    coordinator.summarise(study, "run")
    coordinator.train(study, second, 2, "run")
    coordinator.evaluate(study, last, "run")
    # Rounds without a release, and a release after rounds: the features are the same whatever was trained.
    coordinator.train(study, second, 1, "other")
    coordinator.summarise(study, "other")
    coordinator.summarise(study.with_changes("federation", start="public"), "odd")


def odd_questions(coordinator: Coordinator, study: StudyProtocol, model: Tensors) -> None:
    """Ask what no coordinator of ours would: how a clinic refuses must not tell of patients either."""
    name = next(iter(model))
    coordinator.train(study, model, 99, "odd")
    coordinator.train(study, model, 1, "odd", digest="f" * 64)
    coordinator.train(study, {**model, name: np.full_like(model[name], np.inf)}, 1, "odd")
    coordinator.train(study, {}, 1, "odd")
    coordinator.evaluate(study, {**model, "more": np.zeros(1, np.float32)}, "odd")
    coordinator.describe("{}", "odd")
    coordinator.describe(study.with_changes("privacy", clipping_norm=1e5), "odd")
    coordinator.describe(study.with_changes("privacy", unit="image"), "odd")


def model_of(study: StudyProtocol, weights: Path | None = None) -> Tensors:
    """Return the study's learning tensors as they stand at the start; `weights`: the folder of pretrained ones."""
    return trainable_tensors(build_study_classifier(study, weights))


def _question(study: StudyProtocol | str, run: str, number: int, digest: str | None = None) -> pb.Question:
    text = study if isinstance(study, str) else study.canonical()
    meant = "" if isinstance(study, str) else study.digest
    return pb.Question(
        study=text,
        digest=meant if digest is None else digest,
        run=run,
        round=number,
        deadline_seconds=600,
        flower_run=7,
    )


def _parts(question: pb.Question, tensors: Mapping[str, np.ndarray]) -> Iterator[pb.QuestionPart]:
    content = to_bytes(tensors)
    question.size = len(content)
    yield pb.QuestionPart(question=question)
    for part in wire.parts(content):
        yield pb.QuestionPart(tensors=part)
