"""Section of a study on what is told of its finished model: operating points, subgroups, clinics' own models."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from melfed.common.data.subgroups import ATTRIBUTES, BY_CLINIC
from melfed.common.study.data_sections import Section

if TYPE_CHECKING:
    Subgroup: TypeAlias = str
else:
    Subgroup = Literal[(*ATTRIBUTES, BY_CLINIC)]


class PointSpec(Section):
    """One operating point: a sensitivity, or a specificity.

    >>> PointSpec(sensitivity=0.95).kind, PointSpec(specificity=0.9).wanted
    ('sensitivity', 0.9)
    """

    one_value: ClassVar[bool] = True
    """The list of points is one key of a study (`melfed.common.yaml_file.model_keys`)."""

    sensitivity: float | None = Field(None, gt=0, lt=1, description="share of melanomas that are called so")
    specificity: float | None = Field(None, gt=0, lt=1, description="share of other images that are not")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.sensitivity is None) == (self.specificity is None):
            raise ValueError("an operating point states sensitivity or specificity, one of them")
        return self

    @property
    def kind(self) -> Literal["sensitivity", "specificity"]:
        """What is asked for."""
        return "specificity" if self.sensitivity is None else "sensitivity"

    @property
    def wanted(self) -> float:
        """How much of it."""
        return (self.sensitivity or 0.0) + (self.specificity or 0.0)


class EvaluationSpec(Section):
    """What is told of the finished model, beside the pooled result."""

    operating_points: tuple[PointSpec, ...] = Field(
        (),
        max_length=20,
        description="thresholds that validation chooses: a list of {sensitivity: 0.95} and {specificity: 0.9}",
    )

    subgroups: tuple[Subgroup, ...] = Field(
        (),
        description="attributes whose subgroups the test part is told by: age, sex, site, skin_type (one release more, "
        "noised like the others), source (each clinic, at no cost)",
    )
    local_baseline: bool = Field(
        False,
        description="each clinic also trains a model of its own, on its patients alone, by as many steps again, and "
        "tells how it does on its test part; in a private study noised and charged",
    )

    @field_validator("subgroups")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names an attribute twice; write each once")
        return value

    @model_validator(mode="after")
    def _each_point_once(self) -> Self:
        for place, point in enumerate(self.operating_points):
            if point in self.operating_points[:place]:
                raise ValueError(f"operating point {point.kind} {point.wanted:g} stands twice")
        return self
