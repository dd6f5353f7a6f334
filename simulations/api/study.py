"""A study in a notebook: its keys by completion, and changed copies of it."""

import copy
import html
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final, Self

from melfed.common.errors import StudyError
from melfed.common.study.file import (
    documented_keys,
    read_study,
    recorded_study,
    stated_study,
    study_content,
    study_yaml,
)
from melfed.common.study.in_force import value_of
from melfed.common.study.protocol import (
    DataSpec,
    EvaluationSpec,
    FederationSpec,
    ModelSpec,
    PartitionSpec,
    PrivacySpec,
    ResourcesSpec,
    StudyProtocol,
    TrainingSpec,
)
from melfed.simulations.studies import FOLDER

if TYPE_CHECKING:
    import polars

CHANGED: Final = "changed study"
"""Where errors say that a key stands which `with_` has stated."""

Keys = Mapping[str, Any] | EllipsisType
"""Keys of a section with their values; `...` states none."""


class Study:
    """A study protocol: immutable, checked as soon as it is made, and equal to another of the same digest.

    It keeps which keys were stated, as a file does: what is left open has its default, or follows from other keys, or
    is chosen by `privacy.recipe: auto` when the study is run.

    In a notebook, `study.model.` and TAB show the keys of a section, `study["` and TAB all of them, and `Study.keys()`
    is a table of what each means and allows.

    >>> study = Study(model={"backbone": "simple_cnn", "pretrained": False}, federation={"rounds": 3})
    >>> study.federation.rounds, study["training.batch_size"]
    (3, 64)
    >>> central = study.with_(federation={"mode": "central"}, seed=1)
    >>> central.federation.mode, central.federation.rounds, study.federation.mode
    ('central', 3, 'federated')
    >>> study.with_(federation={"round": 4})
    Traceback (most recent call last):
        ...
    melfed.common.errors.StudyError: changed study: unknown key federation.round; did you mean federation.rounds?
    """

    __slots__ = ("_changes", "_content", "protocol")

    protocol: StudyProtocol
    """The validated document, with every key."""

    def __init__(
        self,
        *,
        name: str | EllipsisType = ...,
        data: Keys = ...,
        partition: Keys = ...,
        model: Keys = ...,
        training: Keys = ...,
        federation: Keys = ...,
        privacy: Keys | None = ...,
        evaluation: Keys = ...,
        resources: Keys = ...,
        seed: int | EllipsisType = ...,
    ) -> None:
        """State a study's keys, a mapping a section; what is left out has its default.

        Raises:
            StudyError: in one line: a key that does not exist, a value that is not allowed, or a key that nothing would
                read.
        """
        sections = {"data": data, "partition": partition, "model": model, "training": training}
        sections |= {"federation": federation, "evaluation": evaluation, "resources": resources}
        self._state(_changed({}, {"name": name, **sections, "privacy": privacy, "seed": seed}))

    def _state(self, content: dict[str, Any], changes: frozenset[str] = frozenset()) -> None:
        """Take the stated keys, and which of them changes have stated: these may leave others without effect."""
        self._content, self._changes = content, changes
        places = {tuple(key.split(".")): CHANGED for key in changes}
        self.protocol = stated_study(content, places, "study", lambda place: place == CHANGED)

    @classmethod
    def _of(cls, content: dict[str, Any], changes: frozenset[str] = frozenset()) -> Self:
        study = cls.__new__(cls)
        study._state(content, changes)
        return study

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a study from a YAML file.

        Raises:
            StudyError: in one line, with file, line and key of what is wrong and what is allowed.
        """
        read_study(Path(path))  # its errors name file and line
        return cls._of(study_content(Path(path))[0])

    @classmethod
    def recorded(cls, path: str | Path) -> Self:
        """Read the study of a run or an approval, where keys may stand that nothing reads. Raises StudyError."""
        study = cls.__new__(cls)
        study.protocol = recorded_study(Path(path))
        study._content, study._changes = study.protocol.model_dump(mode="json", exclude_unset=True), frozenset()
        return study

    @classmethod
    def bundled(cls, name: str) -> Self:
        """Return a study that comes with melfed.

        Raises:
            StudyError: there is none of that name; lists those that there are.

        >>> Study.bundled("demo").data.phantom.images
        1600
        """
        names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        if name not in names:
            raise StudyError(f"no study {name!r} comes with melfed; there are {', '.join(names)}")
        return cls.read(FOLDER / f"{name}.yaml")

    def with_(
        self,
        keys: Mapping[str, Any] | None = None,
        /,
        *,
        name: str | EllipsisType = ...,
        data: Keys = ...,
        partition: Keys = ...,
        model: Keys = ...,
        training: Keys = ...,
        federation: Keys = ...,
        privacy: Keys | None = ...,
        evaluation: Keys = ...,
        resources: Keys = ...,
        seed: int | EllipsisType = ...,
    ) -> Self:
        """Return a copy with some keys changed; a section keeps its other keys.

        Args:
            keys: by their paths, as `--set` of the command takes them: `{"federation.rounds": 3}`.
            name: the study's name.
            data: keys of the section, likewise the others; `privacy=None` leaves that section out.
            partition: see `data`.
            model: see `data`.
            training: see `data`.
            federation: see `data`.
            privacy: see `data`.
            evaluation: see `data`.
            resources: see `data`.
            seed: the study's seed.

        Raises:
            StudyError: as `Study`.

        >>> Study().with_({"federation.rounds": 3}, seed=2)["federation.rounds"]
        3
        """
        sections = {"data": data, "partition": partition, "model": model, "training": training}
        sections |= {"federation": federation, "evaluation": evaluation, "resources": resources}
        changes: dict[str, Any] = {"name": name, **sections, "privacy": privacy, "seed": seed}
        content = _changed(_changed(self._content, _nested(keys or {})), changes)
        return self._of(content, self._changes.union(_paths(_nested(keys or {})), _paths(changes)))

    def __getitem__(self, key: str) -> Any:
        """Return a key's value, as it is in force.

        Raises:
            KeyError: there is no such key, or its section is left out.
        """
        if key in self.protocol.followed():
            return self.protocol.followed()[key]
        if "." not in key and key in ("name", "seed"):
            return getattr(self.protocol, key)
        if key not in self._ipython_key_completions_() or (self.privacy is None and key.startswith("privacy.")):
            raise KeyError(f"{key}; Study.keys() lists the keys, and privacy has some only where the section is stated")
        if key.startswith("data.phantom."):
            return getattr(self.protocol.data.phantom, key.removeprefix("data.phantom."), None)
        return value_of(self.protocol, key)

    def _ipython_key_completions_(self) -> list[str]:
        """Return what TAB shows after `study["`."""
        return [key for key, _, _ in documented_keys()]

    @staticmethod
    def keys() -> "polars.DataFrame":
        """Return a table of all keys: key, default (as JSON), and what it means and allows."""
        import polars

        return polars.DataFrame(list(documented_keys()), schema=["key", "default", "meaning"], orient="row")

    @property
    def name(self) -> str:
        """Short name of the study."""
        return self.protocol.name

    @property
    def data(self) -> DataSpec:
        """What counts as a positive, and how pictures enter the network."""
        return self.protocol.data

    @property
    def partition(self) -> PartitionSpec:
        """How a data folder becomes virtual clinics."""
        return self.protocol.partition

    @property
    def model(self) -> ModelSpec:
        """The network, its initial weights, and which of its parameters learn."""
        return self.protocol.model

    @property
    def training(self) -> TrainingSpec:
        """A clinic's local training."""
        return self.protocol.training

    @property
    def federation(self) -> FederationSpec:
        """How clinics train together."""
        return self.protocol.federation

    @property
    def privacy(self) -> PrivacySpec | None:
        """Differential privacy of every patient; None: none."""
        return self.protocol.privacy

    @property
    def evaluation(self) -> EvaluationSpec:
        """What is told of the finished model."""
        return self.protocol.evaluation

    @property
    def resources(self) -> ResourcesSpec:
        """What one virtual clinic may use; outside the digest."""
        return self.protocol.resources

    @property
    def seed(self) -> int:
        """Seed of all that is random but privacy noise."""
        return self.protocol.seed

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical document, 64 hexadecimal digits."""
        return self.protocol.digest

    def yaml(self) -> str:
        """Return the study as YAML, with every key that is in force."""
        return study_yaml(self.protocol)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Study) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        stated = ", ".join(f"{key}={value!r}" for key, value in self._content.items())
        return f"Study({stated})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the keys in force."""
        title = f"<b>{html.escape(self.name)}</b> <code>{self.digest[:12]}</code>"
        return f"{title}<pre>{html.escape(self.yaml())}</pre>"


def _changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return stated keys with others stated besides; a mapping is merged into the section that is there."""
    result = copy.deepcopy(dict(content))
    for key, value in changes.items():
        if value is ...:
            continue
        before = result.get(key)
        if isinstance(value, Mapping):
            result[key] = _changed(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    """Return a value as YAML would have it: NumPy's numbers as Python's, tuples and arrays as lists."""
    if isinstance(value, list | tuple | set | range):
        return [_plain(item) for item in value]
    convert = getattr(value, "tolist", None)
    return convert() if convert else value


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys by their paths as sections."""
    nested: dict[str, Any] = {}
    for path, value in keys.items():
        section = nested
        *sections, last = path.split(".")
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise StudyError(f"{path}: {part} is given a value and keys of its own; keep one of them")
        section[last] = value
    return nested


def _paths(changes: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the paths of all keys that some changes state."""
    paths: list[str] = []
    for key, value in changes.items():
        if isinstance(value, Mapping):
            paths += _paths(value, f"{prefix}{key}.")
        elif value is not ...:
            paths.append(prefix + key)
    return paths
