"""A clinic of the phantom that takes part in private studies of the tiny network."""

from pathlib import Path

import numpy as np

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.ledger.ledger import LedgerRow, verify
from melfed.client.worker.guard import Protection
from melfed.client.worker.worker import ClinicWorker, TrainReply
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from tests.client.small import CPU, small_study

PLAIN_STEPS = {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "gradient_norm": None}
DELTA = 1e-5


def study_of(model: dict[str, object] | None = None, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "recipe": "manual", **({} if "epsilon" in privacy else {"noise_multiplier": 3.0})}
    return small_study(privacy={**stated, **privacy}, training=PLAIN_STEPS, model=model or {})


STUDY = study_of()
BOUND = study_of(epsilon=2.0)


def worker_of(
    folder: Path, data: ClinicData, study: StudyProtocol = STUDY, policy: ClinicPolicy | None = None
) -> ClinicWorker:
    return ClinicWorker(data, study, None, CPU, protection=Protection(folder / "north.jsonl", policy))


def train(worker: ClinicWorker, tensors: Tensors, round_number: int = 1, run: str = "run") -> TrainReply:
    return worker.train(tensors, round_number, worker.study.digest, run)


def rows(folder: Path) -> tuple[LedgerRow, ...]:
    path = folder / "north.jsonl"
    return verify(path).rows if path.exists() else ()


def charges(folder: Path) -> list[tuple[str, int]]:
    """What was paid for, in order."""
    return [(row.purpose, row.round) for row in rows(folder) if row.status == "reserved"]


def other_than(tensors: Tensors) -> Tensors:
    return {name: tensor + np.float32(1e-3) for name, tensor in tensors.items()}
