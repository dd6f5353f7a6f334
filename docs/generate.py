"""The pages of the documentation that are made of the code: commands, keys of the YAML files, events, exit codes.

`pages()` returns those that are not kept as files; mkdocs takes them, with the texts of the repository's root, by the
hooks at the end of this file. `python docs/generate.py` renews the tables of pages that are kept.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import typer
from pydantic import BaseModel

from melfed.client.cli.main import app as client
from melfed.client.config.clinic import ClinicFile
from melfed.common import errors
from melfed.common.audit.events import Event
from melfed.common.study.protocol import StudyProtocol
from melfed.common.yaml_file import REQUIRED, model_keys
from melfed.server.cli.main import app as server
from melfed.server.config import ServerFile
from melfed.server.provisioning.consortium import ConsortiumFile
from melfed.simulations.cli.main import app as simulations

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

APPS = {"melfed-sim": simulations, "melfed-server": server, "melfed-client": client}
"""The commands, by what each is called."""

KEYS: dict[str, tuple[str, type[BaseModel], str, Path | None]] = {
    "study": (
        "Keys of a study",
        StudyProtocol,
        "What each means for the results is in [studies](../studies.md), and what bounds it at a clinic in "
        "[study-bounds](../study-bounds.md). `melfed-sim keys` prints this table.",
        ROOT / "simulations" / "studies" / "ham10000.yaml",
    ),
    "clinic": (
        "Keys of clinic.yaml",
        ClinicFile,
        "A clinic's own configuration. Its section `policy` is what the clinic allows any study, whoever sends it; a "
        "simulation takes that section by `--policy`.",
        ROOT / "client" / "clinic.example.yaml",
    ),
    "server": ("Keys of server.yaml", ServerFile, "The coordinator's configuration, in the server's kit.", None),
    "consortium": (
        "Keys of consortium.yaml",
        ConsortiumFile,
        "What `melfed-server provision` makes the kits of.",
        ROOT / "server" / "consortium.example.yaml",
    ),
}
"""Title, model, first lines and example of the pages of the YAML files."""

FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Texts of the repository's root, and what they are called in the site."""

INSTEAD = {
    **{f"../{name}": page for name, page in FROM_ROOT.items()},
    "../client/clinic.example.yaml": "reference/clinic.md",
    "../server/consortium.example.yaml": "reference/consortium.md",
}
"""Links out of `docs`, and the pages of the site that stand for them."""

_BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LOADED = re.compile(
    r"<(?:script|img|iframe|link (?![^>]*rel=\"?(?:canonical|prev|next)))[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"> ]+)"
)
_LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)")


def pages() -> dict[str, str]:
    """Return the pages that are not kept as files: Markdown by path in the site."""
    made = {f"reference/{name}.md": commands_page(name, app) for name, app in APPS.items()}
    for name, (title, model, text, example) in KEYS.items():
        made[f"reference/{name}.md"] = keys_page(title, model, text, example)
    return made


def commands_page(name: str, app: typer.Typer) -> str:
    """Return the page of a command: each of its subcommands with arguments, options, defaults and meaning."""
    root = typer.main.get_command(app)
    parts = [f"# {name}\n\n{root.help}\n\n{_made('the command itself; `--help` says the same')}"]
    for path, command in subcommands(root):
        parts.append(f"## {' '.join((name, *path))}\n\n{(command.help or '').strip()}\n")
        rows = [_parameter(each) for each in command.params]
        parts += [_table(("argument or option", "default", "meaning"), rows)] if rows else []
    return "\n".join(parts)


def subcommands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every subcommand with its path, groups before what is in them."""
    if not isinstance(command, click.Group):
        return
    for name, each in command.commands.items():
        if not each.hidden:
            yield (*path, name), each
            yield from subcommands(each, (*path, name))


def _parameter(parameter: click.Parameter) -> tuple[str, str, str]:
    """Return an argument or option of a subcommand, its default, and its meaning, as cells of a table."""
    kind = parameter.type
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    limits = ", ".join(f"{sign} {value:g}" for sign, value in (("≥", low), ("≤", high)) if value is not None)
    meaning = f"{getattr(parameter, 'help', None) or ''} {f'({limits})' if limits else ''}".strip()
    if variable := getattr(parameter, "envvar", None):
        meaning += f" Environment: `{variable}`."
    shown, default = getattr(parameter, "show_default", None), parameter.default
    if isinstance(shown, str):
        text = shown
    elif parameter.required:
        text = "required"
    else:
        text = "" if not shown or default in (None, False, [], ()) else f"`{default}`"
    if isinstance(parameter, click.Argument):
        return f"`{parameter.metavar or parameter.human_readable_name}`", text, meaning
    names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    value = "" if getattr(parameter, "is_flag", False) else f" `{parameter.metavar or _kind(kind)}`"
    return names + value, text, meaning.strip() + (" May be given several times." if parameter.multiple else "")


def _kind(kind: Any) -> str:
    return str(kind.name).removesuffix(" range").upper()


def keys_page(title: str, model: type[BaseModel], text: str, example: Path | None) -> str:
    """Return the page of a YAML file: every key with its type, default and meaning, and an example."""
    rows = [
        (f"`{key}`", types, "required" if default == REQUIRED else f"`{default}`", meaning)
        for key, types, default, meaning in documented(model)
    ]
    parts = [f"# {title}\n\n{text}\n\n{_made('the code that reads the file')}"]
    parts.append(_table(("key", "type", "default", "meaning"), rows))
    if example is not None:
        written = example.read_text(encoding="utf-8")
        parts.append(f"## An example\n\n`{example.relative_to(ROOT)}`:\n\n```yaml\n{written}```\n")
    return "\n".join(parts)


def documented(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Yield key path, type, default and meaning of every key of a YAML file."""
    schema = model.model_json_schema()
    for key, default, meaning in model_keys(model):
        node: dict[str, Any] = schema
        for part in key.split("."):
            node = _section(node, schema)["properties"][part]
        yield key, " or ".join(dict.fromkeys(_types(node, schema))), default, meaning


def _section(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return what has properties: a node of a schema, what it refers to, one of its choices, or its items."""
    for choice in (node, *node.get("anyOf", ()), node.get("items", {})):
        found: dict[str, Any] = schema["$defs"][choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        if "properties" in found:
            return found
    raise KeyError(f"no section in {json.dumps(node)}")


def _types(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """Yield the kinds of value that a node of a schema takes, in words."""
    if "anyOf" in node:
        for choice in node["anyOf"]:
            yield from _types(choice, schema)
    elif "$ref" in node or "properties" in node:
        yield "section"
    elif "const" in node or "enum" in node:
        yield "one of a list" if "enum" in node else f"`{node['const']}`"
    elif node.get("type") == "array":
        items = node.get("items", {})
        yield "list of sections" if "$ref" in items else "list"
    else:
        words = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "mapping"}
        yield words.get(node["type"], node["type"])


def tables() -> dict[str, str]:
    """Return the tables of pages that are kept as files, by the name that stands in the page."""
    events = {1: "events-clinic", 2: "events-server"}
    made = {
        name: _table(
            ("event", "name", "severity", "meaning"),
            [
                (f"[{each.id}]({each.id}.md)", f"`{each.short_name}`", each.severity, each.meaning)
                for each in Event
                if each.id // 1000 == side
            ],
        )
        for side, name in events.items()
    }
    return {**made, "exit-codes": exit_codes_table()}


def exit_codes_table() -> str:
    """Return the table of all exit codes."""
    rows = {0: ("–", "Done."), 2: ("–", "Wrong arguments."), 130: ("–", "Interrupted (Ctrl-C).")}
    for each in _own_codes():
        rows[each.exit_code] = (f"`{each.__name__}`", (each.__doc__ or "").partition("\n")[0])
    rows[1] = (rows[1][0], "Another error; the line that was printed says which.")
    return _table(("code", "error", "meaning"), [(str(code), *rows[code]) for code in sorted(rows)])


def _own_codes() -> list[type[errors.MelfedError]]:
    """Return the errors that have an exit code of their own."""
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    return [each for each in classes if issubclass(each, errors.MelfedError) and "exit_code" in vars(each)]


def filled(text: str) -> str:
    """Return a page with its tables as they are made now."""
    made = tables()
    return _BLOCK.sub(lambda block: f"{block[1]}{made[block[2]]}{block[3]}", text)


def kept_pages() -> list[Path]:
    """Return the files that have tables which are made of the code."""
    return [path for path in sorted(DOCS.rglob("*.md")) if _BLOCK.search(path.read_text(encoding="utf-8"))]


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    columns = tuple(columns)
    lines = [columns, ("---",) * len(columns), *(map(_cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Return a text as a cell of a table: in one line, bars escaped but where they stand in code."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if place % 2 else part.replace("|", "\\|") for place, part in enumerate(parts))


def _made(what: str) -> str:
    return f"This page is made of {what}.\n"


def in_site(text: str, source: str) -> str:
    """Return a page whose links lead to pages of the site.

    Args:
        text: the page in Markdown.
        source: where it lies, from the repository's root: `README.md`, `docs/data.md`.
    """
    depth = source.count("/") - 1

    def link(found: re.Match[str]) -> str:
        target = found[1]
        if depth < 0:
            return FROM_ROOT.get(target, target.removeprefix("docs/"))
        up = "../" * depth
        return up + INSTEAD[target.removeprefix(up)] if target.removeprefix(up) in INSTEAD else target

    return _LINK.sub(link, text)


def on_files(files: "Files", *, config: "MkDocsConfig") -> "Files":
    """Take the pages that are not in `docs` into the site (a hook of mkdocs)."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for name, path in FROM_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=in_site(text, name)))
    for name in ("CITATION.cff", "LICENSE"):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: "Page", **_: object) -> str:
    """Lead links of the pages in `docs` to pages of the site (a hook of mkdocs)."""
    if page.file.generated_by:
        return markdown
    return in_site(filled(markdown), f"docs/{page.file.src_uri}")


def on_post_page(output: str, *, page: "Page", **_: object) -> str:
    """Refuse a page that would load something from elsewhere (a hook of mkdocs)."""
    from mkdocs.exceptions import PluginError

    if found := elsewhere(output):
        raise PluginError(f"{page.file.src_uri} loads {found}, which is not in the site")
    return output


def elsewhere(html: str) -> str | None:
    """Return the first address outside the site that a page would load scripts, styles or pictures from."""
    found = _LOADED.search(html)
    return found and found[1]


if __name__ == "__main__":
    for path in kept_pages():
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
