"""The run's summary, `RUN/summary.json`: what was trained, on what, and how good it is."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.metrics import EvaluationMetrics


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyIdentity(_Row):
    """Which study was run."""

    name: str
    digest: str


class LeftOutImage(_Row):
    """An image that could not be used."""

    image: str
    reason: str


class DataSummary(_Row):
    """What the run was given."""

    folder: str
    layout: str
    images: int
    melanomas: int
    groups: int
    groups_by: str
    synthetic: bool
    left_out: tuple[LeftOutImage, ...]


class ClinicSummary(_Row):
    """One clinic: its whole data, and how the model does on its test part.

    `everywhere` is for the `local` baseline alone: this clinic's own model on the test parts of all clinics.
    """

    name: str
    patients: int
    images: int
    melanomas: int
    test: EvaluationMetrics
    everywhere: EvaluationMetrics | None = None


class RoundSummary(_Row):
    """One round. `validation` is of the model after the round, pooled over the clinics that took part."""

    round: int
    train_loss: float
    validation: EvaluationMetrics | None
    seconds: float
    bytes_up: int
    bytes_down: int
    answered: tuple[str, ...]
    failed: dict[str, str]


class RunSummary(_Row):
    """All of a finished run."""

    melfed: str
    study: StudyIdentity
    mode: Literal["federated", "central", "local"]
    data: DataSummary
    test: EvaluationMetrics
    clinics: tuple[ClinicSummary, ...]
    privacy: None
    rounds: tuple[RoundSummary, ...]
    seconds: float
    versions: dict[str, str]
    device: str
