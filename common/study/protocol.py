"""The study protocol: everything that influences training, in one validated, immutable document.

Its canonical SHA-256 digest is what a clinic approves, and what every checkpoint and report carries. Reading YAML, with
line numbers in its errors, is in `melfed.common.study.file`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from melfed.common.aggregation import RULES
from melfed.common.algorithms import ALGORITHMS
from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES, KNOWN, is_backbone, own_dropout
from melfed.common.optimizers import OPTIMIZERS, optimizer_of
from melfed.common.study.data_sections import (
    DataSpec,
    Digest,
    PartitionSpec,
    PhantomSection,
    Section,
    Seed,
)
from melfed.common.study.evaluation_keys import EvaluationSpec
from melfed.common.study.moments_keys import check_moments
from melfed.common.study.stop import StopSpec
from melfed.common.study.together import contradiction

__all__ = [
    "CURRENT",
    "DataSpec",
    "Digest",
    "EvaluationSpec",
    "FederationSpec",
    "ModelSpec",
    "PartitionSpec",
    "PhantomSection",
    "PrivacySpec",
    "ResourcesSpec",
    "Section",
    "StopSpec",
    "StudyProtocol",
    "TrainingSpec",
    "require_current",
    "validates",
]

CURRENT = 2
"""Version of the document's format. Version 1 (melfed 0.1) divided a clinic by counts, and rounded what it told."""


if TYPE_CHECKING:
    Algorithm: TypeAlias = str
    RobustName: TypeAlias = str
else:
    # What has a file (`melfed.common.registry`) can be stated, and is listed by `melfed-sim keys`.
    Algorithm = Literal[(*OPTIMIZERS, *ALGORITHMS)]
    RobustName = Literal[("none", *RULES)]


class ModelSpec(Section):
    """The network, its initial weights, and which of its parameters learn and travel."""

    backbone: str = Field("efficientnet_lite0", description="one of: " + ", ".join(BACKBONES) + ", or timm/NAME")
    pretrained: bool = Field(True, description="start from ImageNet weights")
    train: Literal["head", "affine", "last_block", "full"] = Field("full", description="which parameters learn")
    metadata: bool = Field(False, description="join age, sex and site before the head")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout before the head; null: the backbone's own, 0.4 of simple_cnn, 0 of others",
    )
    neck: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="the head sees so many whitened features from several depths, by statistics of the run in weights",
    )
    weights: str | None = Field(
        None, description="file or folder of weights, or a finished run to start from; null: see docs/studies.md"
    )
    weights_sha256: Digest | None = Field(None, description="SHA-256 of the weights file; null: fixed at the first run")
    seed: Seed | None = Field(None, description="of the initial values of what is not pretrained; null: the study's")

    @property
    def dropout_rate(self) -> float:
        """Dropout that is in force."""
        return own_dropout(self.backbone) if self.dropout is None else self.dropout

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        if not is_backbone(value):
            raise ValueError(f"no backbone {value!r}; known: {KNOWN}")
        return value

    @model_validator(mode="after")
    def _weights_have_a_use(self) -> Self:
        if not self.pretrained and (self.weights or self.weights_sha256):
            raise ValueError("pretrained is false, so weights and weights_sha256 must be null")
        if self.neck is not None and (not self.pretrained or self.train == "last_block"):
            raise ValueError("neck goes with pretrained: true and train head, affine or full")
        if not self.pretrained and self.train != "full":
            raise ValueError(f"pretrained is false, so train must be full, not {self.train}")
        return self


class TrainingSpec(Section):
    """A clinic's local training."""

    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="local optimiser")
    learning_rate: float = Field(5.0e-4, gt=0, le=100, description="peak learning rate")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        "constant", description="shape of the learning rate over all rounds"
    )
    warmup_steps: int = Field(
        5,
        ge=0,
        le=100_000,
        description="first steps of the run, at each clinic, over which the learning rate rises from 0",
    )
    gradient_norm: float | None = Field(
        1.0, gt=0, le=1e6, description="largest norm of a step's gradient, longer ones are shortened; null: no limit"
    )
    weight_decay: float = Field(0.01, ge=0, le=10, description="decoupled for adamw, L2 otherwise")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    batch_size: int = Field(64, ge=1, le=65_536, description="images an optimiser step")
    local_epochs: float = Field(
        1.0, gt=0, le=1000, description="passes over the clinic's images a round; a part of a pass is fine"
    )
    positive_weight: float = Field(1.0, gt=0, le=1000, description="weight of a melanoma in the loss")
    augment: bool = Field(True, description="flips, quarter turns, mild colour")
    seed: Seed | None = Field(
        None, description="of the order of images, augmentation, dropout and cohorts; null: the study's"
    )


class FederationSpec(Section):
    """How clinics train together."""

    mode: Literal["federated", "one_round", "central", "local"] = Field(
        "federated",
        description="one_round: the head is solved from noised moments, which each clinic releases once; central and "
        "local: baselines",
    )
    rounds: int = Field(5, ge=1, le=100_000, description="rounds; for the baselines, stretches of local_epochs")
    start: Literal["public", "one_round"] = Field(
        "public",
        description="what rounds begin at: the head of the run in weights, or one solved from moments that each clinic "
        "releases before round 1",
    )
    algorithm: Algorithm = Field("fedavg", description="what clinics train, and what the server makes of it")
    proximal_mu: float = Field(0.01, ge=0, le=1000, description="of fedprox; λ of ditto")
    server_learning_rate: float | None = Field(
        None, gt=0, le=100, description="of fedavgm, fedadam, fedyogi; null: 1 of fedavgm, 0.01 of the others"
    )
    server_momentum: float = Field(0.9, ge=0, lt=1, description="of fedavgm; beta 1 of fedadam and fedyogi")
    server_beta2: float = Field(0.99, ge=0, lt=1, description="of fedadam and fedyogi")
    server_tau: float = Field(
        1e-3, gt=0, le=10, description="τ of fedadam and fedyogi: floor of a step's divisor; its square is the first v"
    )
    cohort: float = Field(1.0, gt=0, le=1, description="fraction of the clinics asked each round")
    quorum: float = Field(1.0, gt=0, le=1, description="fraction of the asked clinics that must answer")
    validate_every: int = Field(1, ge=1, le=100_000, description="rounds between two validations")
    stop: StopSpec | None = Field(
        None, description="end early, and take the best round's model, by the pooled validation; null: all rounds"
    )
    tail_average: float = Field(
        0.0, ge=0, lt=1, description="fraction of the rounds, the last ones, whose models are averaged in the end"
    )
    deadline_seconds: float = Field(900.0, gt=0, le=7 * 86_400, description="longest a round may take")
    grace_seconds: float = Field(
        60.0, ge=0, le=7 * 86_400, description="with a quorum, how long a round waits for a clinic that was lost"
    )
    largest_clinic: int = Field(
        10_000_000,
        ge=1,
        le=10_000_000,
        description="images, or in a private study units, a part that a clinic may claim; more is refused",
    )
    largest_update_norm: float | None = Field(
        None, gt=0, le=1e12, description="an update of a longer L2 norm is refused; null: no limit"
    )
    clip_update_norm: float | None = Field(
        None, gt=0, le=1e12, description="an update of a longer L2 norm is shortened to it; null: none is"
    )
    compression: Literal["none", "float16", "int8"] = Field(
        "none",
        description="how updates travel: as they are, or as differences to the model in fewer bits, rounded by chance",
    )
    robust: RobustName = Field(
        "none",
        description="mean that some false updates cannot lead astray, of 3 updates or more; none: weighted by images",
    )
    robust_trim: float = Field(
        0.1, ge=0, lt=0.5, description="of trimmed_mean: fraction of the updates left out at either end, at least one"
    )
    robust_byzantine: int = Field(
        1, ge=0, le=1000, description="of krum and multi_krum: how many updates may be false; 2 f + 3 are needed"
    )

    @property
    def with_clinics(self) -> bool:
        """Whether clinics take part, through messages; in the baselines there are none."""
        return self.mode in {"federated", "one_round"}

    @property
    def asks_for_moments(self) -> bool:
        """Whether clinics release moments: in place of training, or before it."""
        return self.mode == "one_round" or (self.mode == "federated" and self.start == "one_round")

    @property
    def server_rate(self) -> float:
        """The server's learning rate that is in force; 1 where the algorithm has none."""
        return self.server_learning_rate or optimizer_of(self.algorithm).learning_rate


class PrivacySpec(Section):
    """Differential privacy of every patient: what is protected, how strongly, and by which mechanism.

    The mechanism is that of Abadi et al. (arXiv 1607.00133) with a patient in place of an example: see
    `melfed.client.training.private`. Neighbouring data sets differ by all images of one unit, added or removed.
    """

    unit: Literal["patient", "lesion", "image"] = Field(description="whose images are protected together")
    epsilon: float | None = Field(
        None, gt=0, le=1e4, description="largest loss of a clinic's patients over the study; or state noise_multiplier"
    )
    noise_multiplier: float | None = Field(
        None, ge=0, le=1e6, description="σ: noise of a step over clipping_norm; 0 is no noise; or state epsilon"
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="probability with which epsilon may be exceeded")
    recipe: Literal["auto", "manual"] = Field(
        "auto", description="auto: what is not stated is chosen from epsilon and patients, and printed"
    )
    patients: int = Field(
        1000, ge=1, le=10_000_000, description="a clinic's training patients, a public round guess: for the recipe"
    )
    sampling_rate: float = Field(1.0, gt=0, le=1, description="q: probability that a patient takes part in a step")
    steps: int = Field(1, ge=1, le=1_000_000, description="noisy steps a round")
    clipping: Literal["fixed", "normalised"] = Field(
        "fixed", description="a patient's gradient is shortened to clipping_norm, or scaled to nearly it"
    )
    # From far above the smallest numbers of single precision: below them nothing would be clipped, nor noised.
    clipping_norm: float = Field(1.0, ge=1e-6, le=1e6, description="C: largest norm of a patient's gradient")
    views: int = Field(1, ge=1, le=64, description="augmented views of an image, averaged before clipping")
    evaluation: Literal["noised", "public"] = Field(
        "noised", description="histograms of scores: noised and charged, or of images declared public"
    )

    @model_validator(mode="after")
    def _one_strength(self) -> Self:
        if self.noise_multiplier == 0 and self.epsilon is not None:
            raise ValueError(f"noise_multiplier is 0, so no epsilon holds, not even {self.epsilon:g}; leave out one")
        if (self.epsilon is None) == (self.noise_multiplier is None):
            both = "both are" if self.epsilon is not None else "neither is"
            raise ValueError(f"state epsilon or noise_multiplier: {both} stated")
        return self


class ResourcesSpec(Section):
    """What one virtual clinic may use in simulation; outside the digest, since it does not change what is learnt."""

    cpus: float = Field(1.0, gt=0, le=1024, description="CPU cores a clinic")
    gpus: float | None = Field(
        None,
        ge=0,
        le=64,
        description="GPUs a clinic, fractions share one; 0: the CPU; null: shares of what is here (a cluster: 0)",
    )


class StudyProtocol(Section):
    """A whole study. Every key has a default; `melfed-sim keys` prints them with their ranges.

    >>> study = StudyProtocol(name="first")
    >>> study.model.backbone, study.federation.rounds
    ('efficientnet_lite0', 5)
    >>> longer = study.with_changes("federation", rounds=10)
    >>> longer.digest == study.digest
    False
    >>> study.with_changes("resources", cpus=2.0).digest == study.digest
    True
    """

    protocol: Literal[1, 2] = Field(2, description="version of this document's format; 1 is read, and not trained")
    name: str = Field("study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="short name")
    data: DataSpec = DataSpec()
    partition: PartitionSpec = PartitionSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    federation: FederationSpec = FederationSpec()
    privacy: PrivacySpec | None = Field(None, description="differential privacy; null: none")
    evaluation: EvaluationSpec = EvaluationSpec()
    resources: ResourcesSpec = ResourcesSpec()
    seed: int = Field(
        0, ge=0, lt=2**63, description="of all that is random but privacy noise; sections may have own ones"
    )

    @model_validator(mode="after")
    def _privacy_is_federated(self) -> Self:
        if self.privacy is not None and not self.federation.with_clinics:
            raise ValueError(
                f"privacy is for federation.mode federated and one_round, not {self.federation.mode}; a baseline has "
                "privacy: null"
            )
        return self

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if found := contradiction(self):
            raise ValueError(found)
        return self

    @model_validator(mode="after")
    def _moments_are_of_features(self) -> Self:
        check_moments(self)
        return self

    @property
    def head_features(self) -> int:
        """How many features a head behind a neck sees, the encoded metadata among them; 0 where there is no neck."""
        if self.model.neck is None:
            return 0
        return self.model.neck + (METADATA_FEATURES if self.model.metadata else 0)

    def canonical(self) -> str:
        """Return the canonical JSON that the digest is taken of.

        The path of the weights is left out: it differs between machines, and their SHA-256 is in. What is null because
        it follows from another key stands as it is in force.
        """
        content = self.model_dump(mode="json", exclude={"resources": True, "model": {"weights"}})
        for path, value in self.followed().items():
            section, key = path.split(".")
            content[section][key] = value
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    def followed(self) -> dict[str, float]:
        """Return the values in force of the keys that follow from another key where they are null, by key path."""
        return {
            "model.dropout": self.model.dropout_rate,
            "federation.server_learning_rate": self.federation.server_rate,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical document, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def seed_of(self, section: Literal["partition", "model", "training"]) -> int:
        """Return the seed of a section's random streams: its own where it states one, else the study's."""
        own: int | None = getattr(self, section).seed
        return self.seed if own is None else own

    def with_changes(self, section: str, **changes: Any) -> "StudyProtocol":
        """Return a copy with keys of one section replaced (validated again)."""
        return self.with_sections({section: changes})

    def with_sections(self, sections: Mapping[str, Mapping[str, Any]]) -> "StudyProtocol":
        """Return a copy with keys of several sections replaced (validated again, all at once)."""
        content = self.model_dump(mode="json")
        for section, changes in sections.items():
            content[section].update(changes)
        return StudyProtocol.model_validate_json(json.dumps(content))


def require_current(study: StudyProtocol) -> None:
    """Raise StudyError where a study is of a version that is read, but not trained any more."""
    if study.protocol != CURRENT:
        raise StudyError(
            f"study {study.name} is of protocol {study.protocol}: since protocol {CURRENT} each patient is in a part "
            f"by itself and counts are noised, so that its results would be others; write protocol: {CURRENT} (or "
            "leave it out), and let the clinics approve it again"
        )


def validates(study: StudyProtocol, round_number: int) -> bool:
    """Tell whether the model after a round (1-based) is validated: every so many rounds, and always after the last."""
    every = study.federation.validate_every
    return round_number >= 1 and (round_number % every == 0 or round_number == study.federation.rounds)
