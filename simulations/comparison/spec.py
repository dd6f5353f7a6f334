"""The file of a comparison: a study, and which of its keys take which values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from melfed.common.errors import StudyError
from melfed.common.study.protocol import Section
from melfed.common.yaml_file import Form, KeyPath, Places

Values = dict[str, tuple[Any, ...]]
SEEDS = frozenset({"seed", "partition.seed", "model.seed", "training.seed"})
"""Keys whose values repeat a configuration, instead of making another one."""


class Varied(Section):
    """Keys of a study: some set to one value, some taking several in turn."""

    set: dict[str, Any] = Field({}, description="keys of the study by their paths, each with its value")
    vary: Values = Field({}, description="keys of the study by their paths, each with a list of values")

    @field_validator("vary")
    @classmethod
    def _each_value_once(cls, value: Values) -> Values:
        for key, values in value.items():
            twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
            if twice is not None or values.count(None) > 1:
                raise ValueError(f"{key} has the value {twice} twice; each makes cells of its own, so state it once")
        return value


class Comparison(Varied):
    """A grid over a study's keys.

    >>> grid = Comparison(study={"seed": 0}, vary={"model.train": ("head", "full")})
    >>> grid.vary["model.train"]
    ('head', 'full')
    """

    name: str = Field("comparison", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="short name")
    study: str | dict[str, Any] = Field(description="the study's keys, or its file, relative to this one")
    groups: dict[str, Varied] = Field({}, description="named parts of the grid, each with keys of its own")
    exclude: tuple[dict[str, Any], ...] = Field(
        (), description="cells to leave out: keys with a value, or a list of values; group: its name"
    )
    centres: dict[str, tuple[str, ...]] = Field(
        {}, description="the centres of a benchmark, each with the sources it has in tables: names or shell patterns"
    )
    published: Literal["arXiv:2011.04475"] | None = Field(
        None, description="published figures that the report sets beside: arXiv:2011.04475 (Rocheteau & Kim)"
    )


_FORM = Form(Comparison, "comparison", "'study:' and 'vary:'", StudyError)


@dataclass(frozen=True)
class ComparisonFile:
    """A comparison as its author wrote it.

    Attributes:
        path: of the file.
        comparison: what it says.
        places: FILE:LINE of each key path.
    """

    path: Path
    comparison: Comparison
    places: Places

    def place(self, *key: str) -> str:
        """Return where a key stands, or the longest part of its path that does."""
        found = (self.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.places)
        return next(found, str(self.path))

    def under(self, *key: str) -> Mapping[KeyPath, str]:
        """Return the places of what stands below a key, by their paths from there on."""
        return {path[len(key) :]: place for path, place in self.places.items() if path[: len(key)] == key != path}


def read_comparison(path: Path) -> ComparisonFile:
    """Read the file of a comparison.

    Raises:
        StudyError: in one line, with file, line and key of what is wrong.
    """
    content, places = _FORM.read(path)
    return ComparisonFile(path, _FORM.validate(content, places, str(path)), places)
