"""A worker that trains nothing: for tests of what stands between it and whoever asks."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from melfed.client.config.policy import ClinicPolicy
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Description, PrivacyAccount, TrainReply
from melfed.client.worker.outbox import Outbox
from melfed.client.worker.prometheus import WorkerMetrics
from melfed.client.worker.service import Service
from melfed.common.audit.log import AuditLog
from melfed.common.errors import MelfedError, StudyError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.study.protocol import StudyProtocol
from tests.client.small import small_study

STUDY = small_study()
PRIVATE = small_study(name="private", privacy={"unit": "patient", "noise_multiplier": 3.0, "recipe": "manual"})
MOMENTS = NoisyMoments(np.arange(6), np.arange(6) - 3, np.array([4.0]))
TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float32)}


class FakeWorker:
    """Adds the round to each tensor, in `steps` steps; the first `held` of them wait for `go`."""

    def __init__(self, study: StudyProtocol = STUDY, steps: int = 1) -> None:
        self.study, self.steps, self.clinic = study, steps, "north"
        self.checkpoint: Callable[[], None] | None = None
        self.policies: list[ClinicPolicy] = []
        self.trained: list[tuple[str, int]] = []
        self.evaluated = self.summarised = 0
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self.charged = 0

    def allow(self, policy: ClinicPolicy) -> None:
        self.policies.append(policy)

    def left(self) -> float | None:
        return None if self.study.privacy is None else 10.0 - self.charged

    def _work(self) -> None:
        for _ in range(self.steps):
            self.begun.set()
            while True:
                if self.checkpoint:
                    self.checkpoint()
                if self.go.wait(0.01):
                    break
        if self.error:
            raise self.error

    def told(self, error: MelfedError) -> MelfedError:
        return error

    def describe(self, run: str = "", counts: bool = True) -> Description:
        if self.error:
            raise self.error
        return Description(self.clinic, self.study.digest, {"train_images": 120}, "1.2", 3.5, ("any",), 4.5, True, 8)

    def train(self, tensors: Mapping[str, np.ndarray], round_number: int, digest: str, run: str = "") -> TrainReply:
        if digest != self.study.digest:
            raise StudyError("another study")
        self.charged += 1
        self._work()
        self.trained.append((run, round_number))
        validation = ScoreHistogram.from_scores(np.array([0.2, 0.9]), np.array([0, 1]), ["p1", "p2"])
        learnt = {name: np.asarray(tensor + np.float32(round_number)) for name, tensor in tensors.items()}
        return TrainReply(learnt, 120, 0.25, validation if round_number > 1 else None, self.account())

    def summarise(self, digest: str, run: str = "") -> dict[str, NoisyMoments]:
        if digest != self.study.digest:
            raise StudyError("another study")
        self._work()
        self.summarised += 1
        return {"train": MOMENTS, "validation": NoisyMoments.empty(2)}

    def evaluate(
        self, tensors: Mapping[str, np.ndarray], digest: str, run: str = "", round_number: int = 0
    ) -> dict[str, ScoreHistogram]:
        self._work()
        self.evaluated += 1
        histogram = ScoreHistogram.from_scores(np.array([0.2, 0.9]), np.array([0, 1]), ["p1", "p2"])
        return {"validation": histogram, "test": histogram}

    def account(self) -> PrivacyAccount | None:
        return (
            None
            if self.study.privacy is None
            else PrivacyAccount(float(self.charged), f"{self.charged:064d}", 3.0, None)
        )


class Clinic:
    """A service over fake workers, one a study."""

    def __init__(self, folder: Path, **limits: object) -> None:
        self.workers: dict[str, FakeWorker] = {}
        self.made: list[str] = []
        self.limits = {"epsilon": 50.0, "studies": "any", "non_private": True, **limits}
        self.metrics = WorkerMetrics()
        self.log = folder / "audit.jsonl"
        self.outbox = Outbox(folder / "outbox")
        self.stamp = "data"
        self.service = Service(
            "north",
            self.worker,
            lambda: ClinicPolicy(**self.limits),
            self.outbox,
            AuditLog(self.log),
            self.metrics,
            lambda: self.stamp,
        )

    def worker(self, study: StudyProtocol) -> FakeWorker:
        self.made.append(study.name)
        return self.workers.setdefault(study.name, FakeWorker(study))

    def ready(self, study: StudyProtocol = STUDY) -> FakeWorker:
        """The worker that will be asked."""
        return self.workers.setdefault(study.name, FakeWorker(study))


def asked(
    round_number: int = 1, study: StudyProtocol = STUDY, run: str = "run", seconds: float = 20.0, flower_run: int = 7
) -> pb.Question:
    return pb.Question(
        study=study.model_dump_json(),
        digest=study.digest,
        run=run,
        round=round_number,
        deadline_seconds=seconds,
        flower_run=flower_run,
    )
