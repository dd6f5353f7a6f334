"""Reading a study protocol from YAML, with errors that name file, line, key and what is allowed."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from common.errors import StudyError
from common.protocol import StudyProtocol

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `5e-4` is a number (as in YAML 1.2) and a key may stand only once."""


_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_study(path: Path, overrides: Sequence[str] = (), seed: int | None = None) -> StudyProtocol:
    """Read a study from a YAML file.

    Args:
        path: the YAML file.
        overrides: `key.path=value` items; the value is read as YAML.
        seed: replaces the study's seed.

    Raises:
        StudyError: in one line, with file, line and key of what is wrong and what is allowed.
    """
    content, lines = _read_yaml(path)
    places = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        key = _apply(content, override)
        places[key] = f"--set {override}"
    if seed is not None:
        content["seed"] = seed
        places[("seed",)] = f"--seed {seed}"
    return _validate(content, places, str(path))


def study_yaml(study: StudyProtocol) -> str:
    """Return a study as YAML that `read_study` reads back to the same digest."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def documented_keys(model: type[BaseModel] = StudyProtocol, prefix: KeyPath = ()) -> Iterator[tuple[str, str, str]]:
    """Yield key path, default and description (with range) of every key of the protocol."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from documented_keys(field.annotation, (*prefix, name))
            continue
        default = json.dumps(field.get_default(), ensure_ascii=False)
        yield ".".join((*prefix, name)), default, f"{field.description}{_allowed(field.annotation, field.metadata)}"


def _allowed(annotation: Any, metadata: Sequence[Any]) -> str:
    """Describe a field's range or choices in words."""
    choices = [repr(a).strip("'") for a in get_args(annotation) if isinstance(a, str)]
    if choices:
        return f" ({' | '.join(choices)})"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{sign} {getattr(m, name):g}" for m in metadata for name, sign in signs.items() if hasattr(m, name)]
    return f" ({', '.join(limits)})" if limits else ""


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the content of a YAML file and the line of every key path."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from None
    try:
        root = yaml.compose(text, Loader=_Loader)
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StudyError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or root is None:
        raise StudyError(f"{path}: a study is a mapping of keys such as 'name:' and 'model:'")
    lines: dict[KeyPath, int] = {}
    _collect_lines(root, (), lines, path)
    return content, lines


def _collect_lines(node: yaml.Node, prefix: KeyPath, lines: dict[KeyPath, int], path: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*prefix, str(key.value))
        line = key.start_mark.line + 1
        if here in lines:
            raise StudyError(f"{path}:{line}: key {'.'.join(here)} stands twice (also in line {lines[here]})")
        lines[here] = line
        _collect_lines(value, here, lines, path)


def _apply(content: dict[str, Any], override: str) -> KeyPath:
    """Set one `key.path=value` in the content; return its key path."""
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise StudyError(f"--set {override}: write it as key.path=value, for example training.batch_size=32")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise StudyError(f"--set {override}: the value {text!r} is not valid YAML") from None
    section = content
    for part in key[:-1]:
        below = section.setdefault(part, {})
        if not isinstance(below, dict):
            raise StudyError(f"--set {override}: {part} is a value, not a section")
        section = below
    section[key[-1]] = value
    return key


def _validate(content: Mapping[str, Any], places: Mapping[KeyPath, str], source: str) -> StudyProtocol:
    try:
        # Through JSON, since strict validation takes a list for a tuple and an int for a float only there.
        return StudyProtocol.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise StudyError(_explain(error, places, source)) from None


def _explain(error: ValidationError, places: Mapping[KeyPath, str], source: str) -> str:
    """Turn pydantic's first error into one line."""
    first = error.errors()[0]
    # A union's branches appear in the location ("sources", "tuple[str, ...]"): they are no keys.
    key = tuple(part for part in first["loc"] if isinstance(part, str) and part in _all_names())
    if first["type"] == "extra_forbidden":
        key = tuple(str(part) for part in first["loc"])
    place = next((places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in places), source)
    name = ".".join(key) or "the study"
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key {name}; {_nearest(key)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{place}: {name}: {message}"
    given = json.dumps(first["input"], default=str, ensure_ascii=False)
    return f"{place}: {name}: {message[0].lower()}{message[1:]}, not {given}"


def _all_names() -> set[str]:
    return {part for key, _, _ in documented_keys() for part in key.split(".")}


def _nearest(key: KeyPath) -> str:
    """Name the known key nearest to an unknown one, or all of its section."""
    known = [name.split(".") for name, _, _ in documented_keys()]
    siblings = sorted({n[len(key) - 1] for n in known if len(n) >= len(key) and tuple(n[: len(key) - 1]) == key[:-1]})
    close = difflib.get_close_matches(key[-1], siblings, n=1, cutoff=0.5)
    if close:
        return f"did you mean {'.'.join((*key[:-1], close[0]))}?"
    elsewhere = [".".join(n) for n in known if n[-1] == key[-1]]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known here: {', '.join(siblings)}"
