"""Sections of a study on its data: what is a positive, which pictures, and how a folder becomes virtual clinics.

Here is the base of all sections too; they are stated by way of `melfed.common.study.protocol`.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from melfed.common.data.vocabulary.entities import positive_entities
from melfed.common.errors import DataError
from melfed.common.partition import SCHEMES

Fraction = Annotated[float, Field(ge=0, lt=1)]
ImageType = Literal["dermoscopic", "clinical", "overview", "tbp tile", "tbp overview", "rcm"]
"""Kinds of pictures: through a dermoscope; close up by a camera; a part of the body; cut out of total body photographs,
close up or not; reflectance confocal microscopy."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class PhantomSection(Section):
    """Synthetic lesions in place of a data folder (simulation only)."""

    images: int = Field(1200, ge=40, le=1_000_000, description="how many images")
    clinics: int = Field(4, ge=2, le=100, description="how many clinics, each with its own camera")
    melanoma_rate: float = Field(0.25, gt=0, le=0.6, description="fraction of melanoma patients")


class DataSpec(Section):
    """What counts as a positive, and how pictures enter the network."""

    positive: tuple[str, ...] = Field(
        ("mel",), min_length=1, description="diagnoses that count as positive, codes of docs/vocabulary.md"
    )
    image_size: int = Field(128, ge=32, le=1024, description="side of the square network input, pixels")
    sources: Literal["all"] | tuple[str, ...] = Field(
        "all", description="'all', or a list of names and patterns of sources ('!PATTERN' leaves out)"
    )
    image_type: Literal["all"] | tuple[ImageType, ...] = Field(
        "all", description="'all', or a list of kinds of pictures; one whose kind the table does not say is taken"
    )
    phantom: PhantomSection | None = Field(None, description="render synthetic lesions instead of reading a folder")

    @field_validator("positive")
    @classmethod
    def _codes_that_there_are(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            positive_entities(value)
        except DataError as error:
            raise ValueError(str(error).removeprefix("positive: ")) from None
        return value

    @field_validator("sources")
    @classmethod
    def _some_source(cls, value: Literal["all"] | tuple[str, ...]) -> Literal["all"] | tuple[str, ...]:
        if value == ():
            raise ValueError("names no source; write 'all' or at least one name")
        return value


if TYPE_CHECKING:
    PartitionScheme: TypeAlias = str
else:
    # What has a file (`melfed.common.registry`) can be stated, and is listed by `melfed-sim keys`.
    PartitionScheme = Literal[("source", *SCHEMES)]


class PartitionSpec(Section):
    """How a data folder becomes virtual clinics (simulation only)."""

    by: PartitionScheme = Field("source", description="how to divide")
    clinics: int | None = Field(None, ge=1, le=10_000, description="number of clinics; null: all sources, else 4")
    alpha: float = Field(
        0.5,
        gt=0,
        le=1e6,
        description="of the Dirichlet schemes, concentration (small is skewed); of size_zipf, exponent",
    )
    classes: int | None = Field(
        None, ge=1, le=1000, description="of pathological: how many diagnoses a clinic has; null for all other schemes"
    )
    validation: Fraction = Field(0.1, description="fraction of each clinic's groups for validation")
    test: Fraction = Field(0.2, description="fraction of each clinic's groups for testing")
    minimum_images: int = Field(20, ge=1, le=1_000_000, description="training images under which a clinic is refused")
    seed: Seed | None = Field(None, description="of who is in which clinic and part; null: the study's")

    @model_validator(mode="after")
    def _pathological_has_classes(self) -> Self:
        if self.by == "pathological" and self.classes is None:
            raise ValueError("by pathological needs classes, how many diagnoses a clinic has, for example 2")
        if self.by != "pathological" and self.classes is not None:
            raise ValueError(f"classes is of by pathological alone, and by is {self.by}; leave it out")
        return self

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test is {self.validation + self.test:g}, which leaves nothing to train on")
        return self
