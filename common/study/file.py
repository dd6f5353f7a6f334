"""Reading a study protocol from YAML, with changes from the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from melfed.common.errors import StudyError
from melfed.common.study.in_force import in_force, refuse_idle, stated_in
from melfed.common.study.protocol import CURRENT, StudyProtocol
from melfed.common.study.recipe import resolve
from melfed.common.yaml_file import Dumper, Form, KeyPath, Loader, Places, model_keys, one_line

_STUDY = Form(StudyProtocol, "study", "'name:' and 'model:'", StudyError)


def read_study(path: Path, overrides: Sequence[str] = (), seed: int | None = None) -> StudyProtocol:
    """Read a study from the YAML file that its author wrote.

    Args:
        path: the YAML file.
        overrides: `key.path=value` items; the value is read as YAML.
        seed: replaces the study's seed.

    Raises:
        StudyError: in one line, with file, line and key of what is wrong and what is allowed; also where a key is
            stated that nothing would read (`melfed.common.study.in_force`).

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "study.yaml")
    ...     _ = path.write_text("{name: first, federation: {rounds: 3}}")
    ...     study = read_study(path, ["training.batch_size=32"])
    ...
    >>> study.name, study.federation.rounds, study.training.batch_size
    ('first', 3, 32)
    """
    study, content, places = _read(path, overrides, seed)
    if study.protocol == CURRENT:

        def place(key: str) -> str:
            parts = tuple(key.split("."))
            return next((places[parts[:n]] for n in range(len(parts), 0, -1) if parts[:n] in places), str(path))

        def changed(key: str) -> bool:
            return place(key).startswith("--set ")

        refuse_idle(resolve(study)[0], lambda key: stated_in(content, key), changed, place)
    return study


def recorded_study(path: Path) -> StudyProtocol:
    """Read a study as a run or an approval keeps it, where any key may stand. Raises StudyError as `read_study`."""
    return _read(path)[0]


def _read(
    path: Path, overrides: Sequence[str] = (), seed: int | None = None
) -> tuple[StudyProtocol, dict[str, Any], Places]:
    """Return a study, its content as stated, and where each key path stands."""
    content, places = _STUDY.read(path)
    if content.get("protocol") == 1 and isinstance(content.get("privacy"), dict):
        # The one key that version 1 alone had: a run of melfed 0.1 can still be looked at.
        content["privacy"].pop("smallest_cell", None)
    for override in overrides:
        key = _apply(content, override)
        places = {other: place for other, place in places.items() if other[: len(key)] != key}
        places[key] = f"--set {one_line(override)}"
    if seed is not None:
        content["seed"] = seed
        places[("seed",)] = f"--seed {seed}"
    return _STUDY.validate(content, places, str(path)), content, places


def study_yaml(study: StudyProtocol) -> str:
    """Return a study as YAML that `recorded_study` reads back to the same digest: the keys that are in force."""
    text: str = yaml.dump(in_force(study), Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text


def documented_keys() -> Iterator[tuple[str, str, str]]:
    """Yield key path, default and description (with range) of every key of the protocol; see `model_keys`.

    >>> next(key for key in documented_keys() if key[0] == "federation.rounds")
    ('federation.rounds', '5', 'rounds; for the baselines, stretches of local_epochs (≥ 1, ≤ 100000)')
    """
    return model_keys(StudyProtocol)


def _apply(content: dict[str, Any], override: str) -> KeyPath:
    """Set one `key.path=value` in the content; return its key path."""
    shown = one_line(override)
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise StudyError(f"--set {shown}: write it as key.path=value, for example training.batch_size=32")
    try:
        value = yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise StudyError(f"--set {shown}: the value {one_line(text)!r} is not valid YAML") from None
    section = content
    for depth, part in enumerate(key[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise StudyError(f"--set {shown}: {'.'.join(key[:depth])} is a value, not a section")
    section[key[-1]] = value
    return key
