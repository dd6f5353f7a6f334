"""Reading a study protocol from YAML, with changes from the command line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    content, places = study_content(path, overrides, seed)
    return stated_study(content, places, str(path), lambda place: place.startswith("--set "))


def stated_study(
    content: Mapping[str, Any], places: Places, source: str, changed: Callable[[str], bool]
) -> StudyProtocol:
    """Return what somebody states as a study.

    Args:
        content: the keys, in sections.
        places: where each key path stands.
        source: what an error names where no key is to blame.
        changed: tells by a key's place whether it was changed for one run, so that what else is stated may be idle.

    Raises:
        StudyError: as `read_study`.
    """
    study = _STUDY.validate(content, places, source)
    if study.protocol == CURRENT:

        def place(key: str) -> str:
            parts = tuple(key.split("."))
            return next((places[parts[:n]] for n in range(len(parts), 0, -1) if parts[:n] in places), source)

        resolved = resolve(study)[0]
        refuse_idle(resolved, lambda key: stated_in(content, key), lambda key: changed(place(key)), place)
    return study


def recorded_study(path: Path) -> StudyProtocol:
    """Read a study as a run or an approval keeps it, where any key may stand. Raises StudyError as `read_study`."""
    content, places = study_content(path)
    return _STUDY.validate(content, places, str(path))


def study_content(path: Path, overrides: Sequence[str] = (), seed: int | None = None) -> tuple[dict[str, Any], Places]:
    """Return the keys that a study's file states, not validated yet, and where each key path stands; see `read_study`.

    Raises:
        StudyError: the file is no YAML mapping, or an override cannot be read.
    """
    content, places = _STUDY.read(path)
    if content.get("protocol") == 1 and isinstance(content.get("privacy"), dict):
        # The one key that version 1 alone had: a run of melfed 0.1 can still be looked at.
        content["privacy"].pop("smallest_cell", None)
    places = override_content(content, places, overrides)
    if seed is not None:
        content["seed"] = seed
        places[("seed",)] = f"--seed {seed}"
    return content, places


def override_content(content: dict[str, Any], places: Places, overrides: Sequence[str]) -> Places:
    """Set `key.path=value` items in the content; return where each key stands now. Raises StudyError."""
    for override in overrides:
        key = _apply(content, override)
        places = {other: place for other, place in places.items() if other[: len(key)] != key}
        places[key] = f"--set {one_line(override)}"
    return places


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
    set_key(content, key, value, f"--set {shown}")
    return key


def set_key(content: dict[str, Any], key: KeyPath, value: object, place: str) -> None:
    """Set one key in a study's content, its sections made where there are none. Raises StudyError, naming the place."""
    section = content
    for depth, part in enumerate(key[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise StudyError(f"{place}: {'.'.join(key[:depth])} is a value, not a section")
    section[key[-1]] = value
