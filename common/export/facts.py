"""What goes with a model wherever it goes: the study it is of, what it is for, its privacy, how to read its output."""

import json
from typing import Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from melfed.common.errors import RunError
from melfed.common.export.out_of_distribution import NO_STATISTICS, FeatureStatistics
from melfed.common.metrics.calibration_map import Calibration
from melfed.common.study.protocol import Digest, Section, StudyProtocol

__all__ = ["Calibration", "ModelFacts", "OperatingPoint", "Protection", "read_facts"]

INTENDED_USE: Final = (
    "Research on the classification of skin lesions. No medical device: not for diagnosis, and not for deciding what "
    "is done with a patient."
)
ACCOUNTANT: Final = "privacy loss distributions (dp-accounting), over all that the clinics' ledgers hold"
NOT_CALIBRATED: Final = "none: the probability is the sigmoid of the logit as the network was trained"


class OperatingPoint(Section):
    """A threshold of the probability, from which on an image counts as positive."""

    name: str = Field(min_length=1, description="what it promises, such as sensitivity 0.95")
    threshold: float = Field(ge=0, le=1, description="of the probability that the model gives")
    low: float | None = Field(None, ge=0, le=1, description="95 % limits of what is promised, from validation")
    high: float | None = Field(None, ge=0, le=1, description="the upper one")


class Protection(Section):
    """The differential privacy that a model was trained with."""

    unit: Literal["patient", "lesion", "image"]
    epsilon: float | None = Field(description="largest total of any clinic's ledger; null: no bound")
    delta: float
    accountant: str = ACCOUNTANT


class ModelFacts(Section):
    """What is told of a model; travels as JSON.

    `metadata` says whether it needs age, sex and site beside the picture. `privacy` is None where it was trained
    without; `calibration` where no map from its logits to probabilities was made; `seen` where there are no statistics
    of the features of images that it knows.
    """

    name: str
    study: Digest
    run: str = ""
    backbone: str
    image_size: int
    positive: tuple[str, ...]
    metadata: bool = False
    synthetic: bool = False
    intended_use: str = INTENDED_USE
    privacy: Protection | None = None
    calibration: Calibration | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    seen: FeatureStatistics | None = None

    @classmethod
    def of(cls, study: StudyProtocol, /, **known: object) -> Self:
        """Return the facts that follow from a study, and those that are stated."""
        stated: dict[str, object] = {
            "name": study.name,
            "study": study.digest,
            "backbone": study.model.backbone,
            "image_size": study.data.image_size,
            "positive": study.data.positive,
            "metadata": study.model.metadata,
        }
        return cls.model_validate(stated | known)

    @model_validator(mode="after")
    def _each_point_once(self) -> Self:
        names = [point.name for point in self.operating_points]
        if len(set(names)) < len(names):
            raise ValueError("two operating points have one name")
        return self

    def described(self) -> dict[str, str]:
        """Return the facts as a flat list of texts, for formats whose metadata hold nothing else.

        >>> facts = ModelFacts.of(StudyProtocol(name="small"))
        >>> facts.described()["calibration"].partition(":")[0], facts.described()["epsilon"]
        ('none', 'none: trained without differential privacy')
        """
        privacy = self.privacy
        bound = "none: no bound" if privacy is None or privacy.epsilon is None else f"{privacy.epsilon:g}"
        epsilon = "none: trained without differential privacy" if privacy is None else bound
        calibration = NOT_CALIBRATED if self.calibration is None else self.calibration.model_dump_json()
        return {
            "study": self.name,
            "study_digest": self.study,
            "intended_use": self.intended_use,
            "positive": " ".join(self.positive),
            "epsilon": epsilon,
            "privacy": "none" if privacy is None else privacy.model_dump_json(),
            "calibration": calibration,
            "operating_points": json.dumps([point.model_dump() for point in self.operating_points]),
            "out_of_distribution": f"none: {NO_STATISTICS}" if self.seen is None else self.seen.in_words(),
            "melfed": self.model_dump_json(),
        }


def read_facts(text: str, where: str) -> ModelFacts:
    """Return facts from JSON. Raises RunError, which names `where` they are from, in one line."""
    try:
        return ModelFacts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise RunError(f"{where}: what it says of the model cannot be read: {place}: {first['msg']}") from None
