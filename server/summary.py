"""The run's summary, `RUN/summary.json`: what was trained, on what, and how good it is."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.metrics import EvaluationMetrics

AT_CLINICS = "at the clinics"
"""Layout of a deployed run's data: it never was in one place."""


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
    """What the run was given: a folder, or (`layout` is `AT_CLINICS`) what clinics say of data of their own."""

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
    """One round. `validation` is of the model after the round, pooled over the clinics that took part.

    `train_loss` is None in a private study: it would tell about patients. `failed` and `declined` give a reason by
    clinic: a clinic that declines keeps to its own policy, and nothing is broken.
    """

    round: int
    train_loss: float | None
    validation: EvaluationMetrics | None
    seconds: float
    bytes_up: int
    bytes_down: int
    answered: tuple[str, ...]
    failed: dict[str, str]
    declined: dict[str, str] = {}


class RecipeChoice(_Row):
    """One key that `privacy.recipe: auto` chose, and why."""

    key: str
    value: str
    reason: str


class ReleasedQuantity(_Row):
    """Something that left the clinics: how it was protected, and what it cost."""

    quantity: str
    protection: str
    cost: str


class ClinicPrivacy(_Row):
    """What a clinic's ledger says after the run.

    `epsilon` is the total of the ledger (None: unbounded, there was no noise) at the study's delta; `ledger_head` the
    hash of its last row, with which a later look can tell whether rows were taken away.
    """

    name: str
    epsilon: float | None
    ledger_head: str


class PublicData(_Row):
    """What the run's initial weights were trained on, besides ImageNet: taken as public, not protected here."""

    study: str
    digest: str
    images: int
    sources: tuple[str, ...]


class PrivacySummary(_Row):
    """The differential privacy of a run, as the study stated it and as it came out.

    `epsilon` is what the study stated (None: it stated σ), `epsilon_spent` the largest total of any clinic's ledger
    (None: unbounded). `steps` counts those of all rounds. `evaluation_noise_multiplier` is None where the evaluation
    images are public.
    """

    unit: Literal["patient", "lesion", "image"]
    epsilon: float | None
    epsilon_spent: float | None
    delta: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    clipping: Literal["fixed", "normalised"]
    clipping_norm: float
    evaluation: Literal["noised", "public"]
    evaluation_noise_multiplier: float | None
    recipe: tuple[RecipeChoice, ...]
    released: tuple[ReleasedQuantity, ...]
    clinics: tuple[ClinicPrivacy, ...]
    warnings: tuple[str, ...] = ()


class RunSummary(_Row):
    """All of a finished run."""

    melfed: str
    study: StudyIdentity
    mode: Literal["federated", "central", "local"]
    data: DataSummary
    test: EvaluationMetrics
    clinics: tuple[ClinicSummary, ...]
    privacy: PrivacySummary | None
    public: PublicData | None = None
    rounds: tuple[RoundSummary, ...]
    seconds: float
    versions: dict[str, str]
    device: str
