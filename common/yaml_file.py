"""Reading YAML files into pydantic models, with errors that name file, line, key and what is allowed."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from melfed.common.errors import MelfedError

KeyPath = tuple[str, ...]
Places = dict[KeyPath, str]
Model = TypeVar("Model", bound=BaseModel)

REQUIRED = "required"
"""What `model_keys` gives for the default of a key that has none."""


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `5e-4` is a number (as in YAML 1.2), a key may stand only once, and no aliases.

    Aliases would let a few lines stand for gigabytes, or for themselves.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases. Raises yaml.composer.ComposerError."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back: text that looks like a number to it is quoted."""


_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
for _class in (Loader, Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_STRING_TAG, _MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_LONGEST_VALUE = 80


def _parsed(text: str) -> tuple[yaml.Node | None, Any]:
    """Return a document's root with the places of all keys, and its content. Raises as yaml.load."""
    loader = Loader(text)
    try:
        root = loader.get_single_node()
        content = None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()
    # To parse takes the most time, so it is done once; but a merge key (<<) changes the nodes that are constructed.
    return (yaml.compose(text, Loader=Loader) if "<<" in text else root), content


@dataclass(frozen=True)
class Form(Generic[Model]):
    """A kind of YAML file: the model that its content must fit, and how its errors speak of it.

    `noun` is what such a file holds ("study"), `keys` names some of its keys, and every error is an `error`: one line.
    """

    model: type[Model]
    noun: str
    keys: str
    error: type[MelfedError]

    def read(self, path: Path) -> tuple[dict[str, Any], Places]:
        """Return the content of a YAML file, not validated yet, and the place (file:line) of every key path."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self.error(f"{path}: no such {self.noun} file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(f"{path}: cannot be read: {error}") from None
        try:
            root, content = _parsed(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            problem = ": ".join(part for part in (error.context, error.problem) if part)
            raise self.error(f"{path}:{line}: not valid YAML: {one_line(problem)}") from None
        except (yaml.YAMLError, ValueError) as error:  # ValueError: PyYAML on a date such as 2020-13-45
            raise self.error(f"{path}: not valid YAML: {one_line(str(error))}") from None
        except RecursionError:
            raise self.error(f"{path}: not a {self.noun}: its lists or sections are nested too deeply") from None
        if not isinstance(content, dict) or root is None:
            raise self.error(f"{path}: a {self.noun} is a mapping of keys such as {self.keys}")
        lines: dict[KeyPath, int] = {}
        self._collect_lines(root, (), lines, path)
        return content, {key: f"{path}:{line}" for key, line in lines.items()}

    def validate(self, content: Mapping[str, Any], places: Mapping[KeyPath, str], source: str) -> Model:
        """Return the content as the model.

        Args:
            content: of the file, perhaps with changes.
            places: where the value of a key path comes from; an error names the longest path that is known.
            source: named where no key path is known.
        """
        try:
            # Through JSON, since strict validation takes a list for a tuple and an int for a float only there.
            return self.model.model_validate_json(json.dumps(content, default=str))
        except ValidationError as error:
            raise self.error(self._explain(error, places, source)) from None

    def _collect_lines(self, node: yaml.Node, prefix: KeyPath, lines: dict[KeyPath, int], path: Path) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here = (*prefix, str(key.value))
            line = key.start_mark.line + 1
            if key.tag not in (_STRING_TAG, _MERGE_TAG):
                # A number or a date, which JSON cannot have as a key.
                raise self.error(f"{path}:{line}: unknown key {'.'.join(here)}; {self._nearest(here)}")
            if here in lines:
                raise self.error(f"{path}:{line}: key {'.'.join(here)} stands twice (also in line {lines[here]})")
            lines[here] = line
            self._collect_lines(value, here, lines, path)

    def _explain(self, error: ValidationError, places: Mapping[KeyPath, str], source: str) -> str:
        """Turn pydantic's first error into one line."""
        # A misspelt key is both missing and unknown; the latter says which it is.
        first = min(error.errors(), key=lambda each: each["type"] == "missing")
        location = first["loc"]
        key, field = self._locate(location)
        if first["type"] == "extra_forbidden":
            key = tuple(str(part) for part in location)
        place = next((places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in places), source)
        name = ".".join(key) or f"the {self.noun}"
        if first["type"] == "extra_forbidden":
            return f"{place}: unknown key {name}; {self._nearest(key)}"
        if first["type"] == "missing" and field is not None:
            return f"{place}: {name} is missing: {field.description}{_allowed(field.annotation, field.metadata)}"
        if first["type"] == "value_error":
            return f"{place}: {name}: {first['msg'].removeprefix('Value error, ')}"
        given = one_line(json.dumps(first["input"], default=str, ensure_ascii=False))
        if field is not None and len(location) > len(key) and isinstance(location[len(key)], str):
            # One of several kinds of value is allowed; pydantic's message knows the first alone.
            return f"{place}: {name}: should be {field.description}, not {given}"
        message = (first["msg"][0].lower() + first["msg"][1:]).replace("a valid array", "a list")
        message = message.replace("an object", "a section with keys of its own")
        return f"{place}: {name}: {message}" + ("" if first["type"] == "too_short" else f", not {given}")

    def _locate(self, location: Sequence[int | str]) -> tuple[KeyPath, FieldInfo | None]:
        """Return the key at the start of an error's location and its field.

        List items and kinds of value may follow it.
        """
        key: KeyPath = ()
        field: FieldInfo | None = None
        section: type[BaseModel] | None = self.model
        for part in location:
            if section is None or not isinstance(part, str) or part not in section.model_fields:
                break
            key, field = (*key, part), section.model_fields[part]
            section = _section(field.annotation)
        return key, field

    def _nearest(self, key: KeyPath) -> str:
        """Name the known key nearest to an unknown one, or all of its section."""
        leaves = [tuple(name.split(".")) for name, _, _ in model_keys(self.model)]
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


def model_keys(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[tuple[str, str, str]]:
    """Yield key path, default (as JSON, or `REQUIRED`) and description (with range) of every key of a model."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None or field.default is None:
            default = REQUIRED if field.is_required() else json.dumps(field.get_default(), ensure_ascii=False)
            yield ".".join((*prefix, name)), default, f"{field.description}{_allowed(field.annotation, field.metadata)}"
        if section is not None:
            yield from model_keys(section, (*prefix, name))


def one_line(text: str) -> str:
    """Return text in one line of at most 80 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 1]}…"


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, always or unless it is null; None for a value."""
    held = (a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel))
    # What says so of itself stands in lists, which are set and told of as one value.
    return next((section for section in held if not getattr(section, "one_value", False)), None)


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
