"""Reading a study protocol from YAML, with errors that name file, line, key and what is allowed."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common.errors import StudyError
from common.protocol import StudyProtocol

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `5e-4` is a number (as in YAML 1.2), a key may stand only once, and no aliases.

    Aliases would let a few lines stand for gigabytes, or for themselves.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases. Raises yaml.composer.ComposerError."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: text that looks like a number to it is quoted."""


_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_STRING_TAG, _MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_LONGEST_VALUE = 80


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
        places = {other: place for other, place in places.items() if other[: len(key)] != key}
        places[key] = f"--set {_one_line(override)}"
    if seed is not None:
        content["seed"] = seed
        places[("seed",)] = f"--seed {seed}"
    return _validate(content, places, str(path))


def study_yaml(study: StudyProtocol) -> str:
    """Return a study as YAML that `read_study` reads back to the same digest."""
    text: str = yaml.dump(study.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def documented_keys(model: type[BaseModel] = StudyProtocol, prefix: KeyPath = ()) -> Iterator[tuple[str, str, str]]:
    """Yield key path, default and description (with range) of every key of the protocol."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None or field.default is None:
            default = json.dumps(field.get_default(), ensure_ascii=False)
            yield ".".join((*prefix, name)), default, f"{field.description}{_allowed(field.annotation, field.metadata)}"
        if section is not None:
            yield from documented_keys(section, (*prefix, name))


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, always or unless it is null; None for a value."""
    return next(
        (a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)), None
    )


def _allowed(annotation: Any, metadata: Sequence[Any]) -> str:
    """Describe a field's range or choices in words."""
    choices = [str(a) for a in get_args(annotation) if isinstance(a, str | int)]
    if choices:
        return f" ({' | '.join(choices)})"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {_number(getattr(m, name))}" for m in metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    return f" ({', '.join(limits)})" if limits else ""


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else str(value) if isinstance(value, int) else f"{value:g}"


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
        problem = ": ".join(part for part in (error.context, error.problem) if part)
        raise StudyError(f"{path}:{line}: not valid YAML: {_one_line(problem)}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: PyYAML on a date such as 2020-13-45
        raise StudyError(f"{path}: not valid YAML: {_one_line(str(error))}") from None
    except RecursionError:
        raise StudyError(f"{path}: not a study: its lists or sections are nested too deeply") from None
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
        if key.tag not in (_STRING_TAG, _MERGE_TAG):
            # A number or a date, which JSON cannot have as a key.
            raise StudyError(f"{path}:{line}: unknown key {'.'.join(here)}; {_nearest(here)}")
        if here in lines:
            raise StudyError(f"{path}:{line}: key {'.'.join(here)} stands twice (also in line {lines[here]})")
        lines[here] = line
        _collect_lines(value, here, lines, path)


def _apply(content: dict[str, Any], override: str) -> KeyPath:
    """Set one `key.path=value` in the content; return its key path."""
    shown = _one_line(override)
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise StudyError(f"--set {shown}: write it as key.path=value, for example training.batch_size=32")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise StudyError(f"--set {shown}: the value {_one_line(text)!r} is not valid YAML") from None
    section = content
    for depth, part in enumerate(key[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise StudyError(f"--set {shown}: {'.'.join(key[:depth])} is a value, not a section")
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
    location = first["loc"]
    key, field = _locate(location)
    if first["type"] == "extra_forbidden":
        key = tuple(str(part) for part in location)
    place = next((places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in places), source)
    name = ".".join(key) or "the study"
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key {name}; {_nearest(key)}"
    if first["type"] == "value_error":
        return f"{place}: {name}: {first['msg'].removeprefix('Value error, ')}"
    given = _one_line(json.dumps(first["input"], default=str, ensure_ascii=False))
    if field is not None and len(location) > len(key) and isinstance(location[len(key)], str):
        # One of several kinds of value is allowed; pydantic's message knows the first alone.
        return f"{place}: {name}: should be {field.description}, not {given}"
    message = (first["msg"][0].lower() + first["msg"][1:]).replace("a valid array", "a list")
    message = message.replace("an object", "a section with keys of its own")
    return f"{place}: {name}: {message}" if first["type"] == "too_short" else f"{place}: {name}: {message}, not {given}"


def _locate(location: Sequence[int | str]) -> tuple[KeyPath, FieldInfo | None]:
    """Return the key at the start of an error's location and its field; list items and kinds of value may follow it."""
    key: KeyPath = ()
    field, section = None, _section(StudyProtocol)
    for part in location:
        if section is None or not isinstance(part, str) or part not in section.model_fields:
            break
        key, field = (*key, part), section.model_fields[part]
        section = _section(field.annotation)
    return key, field


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 1]}…"


def _nearest(key: KeyPath) -> str:
    """Name the known key nearest to an unknown one, or all of its section."""
    leaves = [tuple(name.split(".")) for name, _, _ in documented_keys()]
    known = list(dict.fromkeys(path[:n] for path in leaves for n in range(1, len(path) + 1)))
    siblings = [path for path in known if path[:-1] == key[:-1]]
    same = [".".join(path) for path in known if path[-1] == key[-1]]
    if same:
        return f"did you mean {' or '.join(same)}?"
    for paths in (siblings, known):
        close = difflib.get_close_matches(key[-1], [path[-1] for path in paths], n=1)
        if close:
            return f"did you mean {next('.'.join(path) for path in paths if path[-1] == close[0])}?"
    return f"known here: {', '.join(sorted(path[-1] for path in siblings))}"
