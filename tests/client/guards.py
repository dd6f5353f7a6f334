"""A clinic's guard over a few invented patients, and work that counts how often it is done."""

from pathlib import Path

import numpy as np

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.ledger.ledger import verify
from melfed.client.worker.guard import Guard, Protection, Request
from melfed.common.study.protocol import StudyProtocol
from tests.client.small import small_study
from tests.common.lesions import record

PRIVATE = {"unit": "patient", "noise_multiplier": 2.0, "recipe": "manual"}
STUDY = small_study(privacy=PRIVATE)
DATA = ClinicData(
    "north",
    Path("/nowhere"),
    Path("/nowhere"),
    32,
    tuple(record(f"{i}.jpg", patient_id=f"p{i}", target=i % 2) for i in range(4)),
    (record("8.jpg", patient_id="p8"),),
    (record("9.jpg", patient_id="p9"),),
)


def request(model: float = 1.0, round_number: int = 1, run: str = "run") -> Request:
    return Request(run, round_number, {"head.bias": np.array([model], np.float32)})


class Work:
    """Counts how often it is done; each time its result is another."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.done += 1
        return {"result": np.array([self.done], np.float32)}


def result(arrays: dict[str, np.ndarray]) -> int:
    assert set(arrays) == {"result"}
    return int(arrays["result"][0])


def guard_of(folder: Path, study: StudyProtocol = STUDY, policy: ClinicPolicy | None = None) -> Guard:
    return Guard(study, Protection(folder / "north.jsonl", policy), DATA)


def policy(**limits: object) -> ClinicPolicy:
    return ClinicPolicy(**{"epsilon": 100.0, "studies": "any", **limits})


def statuses(folder: Path) -> list[tuple[int, str]]:
    return [(row.charge, row.status) for row in verify(folder / "north.jsonl").rows]


ONE_CHARGE = [(1, "reserved"), (1, "spent"), (1, "released")]
