"""The run's summary, `RUN/summary.json`: what was trained, on what, and how good it is."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from melfed.common.metrics.calibration import CalibrationMetrics
from melfed.common.metrics.calibration_map import Calibration, Lacking
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.metrics.operating_point import PointResult
from melfed.common.metrics.subgroups import Gap, SubgroupMetrics

AT_CLINICS = "at the clinics"
"""Layout of a deployed run's data: it never was in one place."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyIdentity(_Row):
    """Which study was run.

    Attributes:
        parents: digests of the shorter studies that the run has gone on from, the oldest first.
        keys: all keys of the study with their values, but for the path of the weights; empty in runs of melfed 0.1.
    """

    name: str
    digest: str
    parents: tuple[str, ...] = ()
    keys: dict[str, Any] = {}


class LeftOutImage(_Row):
    """An image that could not be used."""

    image: str
    reason: str


class Counted(_Row):
    """How numbers of patients and melanomas came about, and what they are of.

    Attributes:
        how: exact; noised by the clinics; unnoised: a clinic declared public figures, or the study has no noise; or
            rounded, as melfed 0.1 did in private studies.
        parts: whether they are of all data, or of the training part alone (the others are declared public).
        patients_noise: standard deviation of the noise on the number of patients; 0: none.
        melanomas_noise: of that on the number of melanomas.

    Where it is not exact, `patients` (or `groups`) are what the study protects (patients, lesions or images), and
    `melanomas` those of them that have one. How many `images` there are, nobody has told.
    """

    how: Literal["exact", "noised", "unnoised", "rounded"] = "exact"
    parts: Literal["all", "training"] = "all"
    patients_noise: float = 0.0
    melanomas_noise: float = 0.0


class DataSummary(_Row):
    """What the run was given: a folder, or (`layout` is `AT_CLINICS`) what clinics say of data of their own.

    Attributes:
        synthetic: whether images, all or those of some clinics, are rendered, and no pictures of anybody's skin.
        synthetic_clinics: whose images are, where others' are not; empty where it is all of them, or none.
    """

    folder: str
    layout: str
    images: int | None
    melanomas: int
    groups: int
    groups_by: str
    synthetic: bool
    synthetic_clinics: tuple[str, ...] = ()
    left_out: tuple[LeftOutImage, ...]
    counted: Counted = Counted()


class ClinicSummary(_Row):
    """One clinic: its whole data, as the coordinator knows it, and how the model does on its test part.

    `everywhere` is for the `local` baseline alone: this clinic's own model on the test parts of all clinics. `local` is
    for federated studies with `evaluation.local_baseline`: the model that it has trained alone, on its own test part.
    """

    name: str
    patients: int
    images: int | None
    melanomas: int
    counted: Counted = Counted()
    test: EvaluationMetrics
    everywhere: EvaluationMetrics | None = None
    local: EvaluationMetrics | None = None


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


class ChosenModel(_Row):
    """Which round's model a run ended with, of a study that stops early.

    `clinic` is whose, in the `local` baseline. `value` is the validation metric of that round (None: undefined in every
    round, and `round` is the last one), `trained` the number of rounds that were trained.
    """

    clinic: str | None = None
    round: int
    value: float | None
    trained: int


class StopSummary(_Row):
    """Early stopping: by which validation metric, with which patience, and of how many planned rounds."""

    metric: Literal["auroc", "auprc", "brier"]
    patience: int
    planned: int
    models: tuple[ChosenModel, ...]


class CalibrationSummary(_Row):
    """How calibrated the model's probabilities are on the test part.

    `fitted` is the map that validation gives, None where it gives none (`lacking` says why); `before` is of the sigmoid
    of the logits, `after` of the mapped ones.
    """

    fitted: Calibration | None
    lacking: Lacking | None
    before: CalibrationMetrics
    after: CalibrationMetrics | None


class PublicData(_Row):
    """What the run's initial weights were trained on, besides ImageNet: taken as public, not protected here.

    `images` is None where that is not known: a private study's clinics do not tell it.
    """

    study: str
    digest: str
    images: int | None
    sources: tuple[str, ...]


class AttributeSummary(_Row):
    """How the model does by one attribute.

    Attributes:
        attribute: as the study names it.
        cells: by the names of its subgroups; of `source`, by clinic.
        gaps: the largest of each measure, as far as two subgroups have enough patients.
    """

    attribute: str
    cells: dict[str, SubgroupMetrics]
    gaps: tuple[Gap, ...]


class SubgroupsSummary(_Row):
    """How the model does on subgroups of the test part.

    Attributes:
        threshold: probability from which on an image is called melanoma.
        point: the study's operating point whose threshold it is, the first that can be promised; None without one.
        specificity: of another threshold on the validation part; None where that leaves it open, and it is 0.5.
        attributes: in the order of the study.
    """

    threshold: float
    point: str | None = None
    specificity: float | None
    attributes: tuple[AttributeSummary, ...]


class PrivacySummary(_Row):
    """The differential privacy of a run, as the study stated it and as it came out.

    `epsilon` is what the study stated (None: it stated σ), `epsilon_spent` the largest total of any clinic's ledger
    (None: unbounded). `steps` counts those of all rounds. `evaluation_noise_multiplier` is None where the evaluation
    images are public, `count_noise_multiplier` where no clinic added noise to its numbers of units.
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
    count_noise_multiplier: float | None = None
    recipe: tuple[RecipeChoice, ...]
    released: tuple[ReleasedQuantity, ...]
    clinics: tuple[ClinicPrivacy, ...]
    warnings: tuple[str, ...] = ()


RungName = Literal["public", "one_round", "rounds", "no_privacy"]


class Rung(_Row):
    """One way from the same public start to a model for the same clinics, and what it cost: a line of `ladder.json`.

    Attributes:
        name: public: the public run's own model; one_round: a head that is solved from one release; rounds: gradient
            rounds; no_privacy: those without noise.
        auroc: on the clinics' test parts, pooled.
        epsilon: of a clinic's patients at the study's delta, all that was asked for it; None: without bound.
        messages: answers of a clinic.
    """

    name: RungName
    auroc: Interval
    epsilon: float | None
    messages: int


RUNGS: Final = TypeAdapter(tuple[Rung, ...])
"""What `ladder.json` holds."""


class RunSummary(_Row):
    """All of a finished run.

    `warnings` say why its numbers are not to be trusted. `steps` are the optimiser steps of all rounds that ran, as the
    study plans them, by clinic; those of the central baseline are under `all`. `stop` is None where the study does not
    stop early, `calibration` where there is no one model, or where no validation of the final one is known, `subgroups`
    where it asks for none.
    """

    melfed: str
    study: StudyIdentity
    mode: Literal["federated", "one_round", "central", "local"]
    data: DataSummary
    test: EvaluationMetrics
    clinics: tuple[ClinicSummary, ...]
    privacy: PrivacySummary | None
    public: PublicData | None = None
    rounds: tuple[RoundSummary, ...]
    warnings: tuple[str, ...] = ()
    steps: dict[str, int] = {}
    stop: StopSummary | None = None
    calibration: CalibrationSummary | None = None
    operating_points: tuple[PointResult, ...] = ()
    subgroups: SubgroupsSummary | None = None
    seconds: float
    versions: dict[str, str]
    device: str

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_counted(cls, content: Any) -> Any:
        """Say of a private run of melfed 0.1, whose summary does not tell, that its clinics rounded their counts."""
        if not isinstance(content, dict) or not isinstance(content.get("privacy"), dict):
            return content
        told = [*content.get("clinics", ())]
        data = content.get("data")
        if isinstance(data, dict) and data.get("layout") == AT_CLINICS:
            told.append(data)
        for row in told:
            if isinstance(row, dict):
                row.setdefault("counted", {"how": "rounded"})
        return content
