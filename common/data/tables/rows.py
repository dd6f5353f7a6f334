"""One line of a table about one image, before its file and its patient's other lines are known."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from melfed.common.data.identity import scoped_id
from melfed.common.data.images.links import Links
from melfed.common.data.vocabulary.diagnoses import Diagnosis

if TYPE_CHECKING:
    from melfed.common.data.tables.tables import Table


@dataclass(frozen=True)
class ReadOptions:
    """What a person says about a table that it does not say itself.

    Attributes:
        diagnoses: words that the vocabulary does not have, and what they mean
            (`vocabulary.diagnoses.checked_mapping`).
        shared_ids: whether equal ids of patients and lesions in several sources are one person's. Where not, as is
            usual of clinics that each number their own, they are other people's. Ids of published data sets are
            unique in them and need no choice.
        classes: for a folder without a table: a folder's name and what its images show (`0` no melanoma, `1` a
            melanoma, or a code of the vocabulary).
        image_types: kinds of pictures that are taken though they usually are not: `rcm`.
        synthetic: whether pictures that the archive calls synthetic are taken.
        links: which symbolic links of the folder are followed (`melfed.common.data.images.links`).
    """

    diagnoses: Mapping[str, str] = field(default_factory=dict)
    shared_ids: bool = False
    classes: Mapping[str, str] | None = None
    image_types: frozenset[str] = frozenset()
    synthetic: bool = False
    links: Links = "inside"

    def asking_for(self, types: Literal["all"] | Collection[str]) -> "ReadOptions":
        """Return the options where a study asks for kinds of pictures: also those that are usually left out."""
        return self if types == "all" else replace(self, image_types=self.image_types | frozenset(types))


@dataclass(slots=True)
class Row:
    """What one or several tables say about one image; None where they say nothing."""

    image: str
    """Image id; in melfed's own table a path or a file name."""
    table: "Table"
    line: int
    """Index among the lines of the table."""
    diagnosis: Diagnosis
    stated: frozenset[str] | None = None
    """Entities that the lesion can be by a column that only says melanoma or not, malignant or not."""
    patient: str | None = None
    """Normalised, not yet scoped."""
    lesion: str | None = None
    dup_group: str | None = None
    age: float | None = None
    sex: str | None = None
    site: str | None = None
    source: str | None = None
    image_type: str | None = None
    skin_type: int | None = None
    manipulated: str | None = None
    problem: str | None = None
    """Why the line cannot be used, whatever the study: what is wrong and what to do."""

    @property
    def where(self) -> str:
        """File name and line number, for messages."""
        return self.table.where(self.line)

    @property
    def could_be(self) -> frozenset[str] | None:
        """The entities that the lesion can be by all that is said; none where that is contradictory.

        None where nothing is said, or in words that nobody knows.
        """
        match self.diagnosis.reading:
            case "unknown":
                return None
            case "missing":
                return self.stated
            case _:
                return self.diagnosis.could_be if self.stated is None else self.diagnosis.could_be & self.stated

    def patient_id(self, shared: bool) -> str | None:
        """The patient's name among all patients of the folder.

        Args:
            shared: whether equal ids of several sources are one person's.
        """
        if self.patient is None:
            return None
        return self.patient if shared or self.table.has_unique_patient(self.patient) else self._scoped(self.patient)

    def lesion_id(self, shared: bool, apart: bool) -> str | None:
        """The lesion's name among all lesions of the folder, its patient's name before it where that is known.

        Many clinics and data sets number lesions anew for each patient.

        Args:
            shared: whether equal ids of several sources are one lesion's.
            apart: whether even an id that is unique in its layout is taken for another lesion with another patient, so
                that no row can join two patients.
        """
        if self.lesion is None:
            return None
        unique = self.table.has_unique_lesion(self.lesion)
        if self.patient is not None and (apart or not unique):
            return scoped_id(self.patient_id(shared) or "", self.lesion)
        return self.lesion if shared or unique else self._scoped(self.lesion)

    def _scoped(self, name: str) -> str:
        return scoped_id(self.source or self.table.default_source, name)
