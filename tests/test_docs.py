"""The pages that are made of the code have all of it, and the tutorial says what the README says."""

import importlib.util
import re
import shlex
import sys
from types import ModuleType

import click
import pytest
import typer
import yaml
from pydantic import BaseModel

from melfed.client.config.clinic import ClinicFile
from melfed.common import errors
from melfed.common.audit.events import Event
from melfed.common.study.evaluation_keys import PointSpec
from melfed.common.study.file import documented_keys
from melfed.common.study.protocol import StudyProtocol
from melfed.server.config import ServerFile
from melfed.server.provisioning.consortium import ConsortiumFile
from tests.conftest import REPOSITORY
from tests.documented import commands
from tests.test_texts import APPS

DOCS = REPOSITORY / "docs"
MODELS = {"study": StudyProtocol, "clinic": ClinicFile, "server": ServerFile, "consortium": ConsortiumFile}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The generator: a file of the documentation, in no package."""
    spec = importlib.util.spec_from_file_location("documentation_pages", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parameters(command: click.Command, path: tuple[str, ...]) -> dict[tuple[str, ...], list[click.Parameter]]:
    """The arguments and options of every subcommand that --help lists, by its words."""
    if getattr(command, "hidden", False):
        return {}
    own = {path: list(command.params)} if len(path) > 1 else {}
    for name, each in getattr(command, "commands", {}).items():
        own |= parameters(each, (*path, name))
    return own


def flags(found: list[click.Parameter]) -> set[str]:
    return {option for each in found for option in (*each.opts, *each.secondary_opts) if option.startswith("-")}


@pytest.mark.parametrize("program", sorted(APPS))
def test_the_page_of_a_command_has_every_subcommand_and_option(generate: ModuleType, program: str) -> None:
    page = generate.pages()[f"reference/{program}.md"]
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", page, re.M))
    expected = parameters(typer.main.get_command(APPS[program]), (program,))
    assert len(expected) > 5
    assert set(sections) == {" ".join(words) for words in expected}
    for words, found in expected.items():
        rows = re.findall(r"^\| (`.*?) \| .*? \| (.*) \|$", sections[" ".join(words)], re.M)
        assert len(rows) == len(found), words
        assert {flag for first, _ in rows for flag in re.findall(r"`(--?[a-z][a-z0-9-]*)`", first)} == flags(found)
        assert all(meaning.strip() for _, meaning in rows), words


def fields(model: type[BaseModel]) -> set[str]:
    """Names of the fields of a model, and of all models that its fields hold."""
    found = set(model.model_fields)
    for name, definition in model.model_json_schema().get("$defs", {}).items():
        if name != PointSpec.__name__:  # a list of them is one key
            found |= set(definition.get("properties", ()))
    return found


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_page_of_a_file_has_every_key(generate: ModuleType, name: str) -> None:
    rows = re.findall(
        r"^\| `([a-z_0-9.]+)` \| (.+?) \| (.+?) \| (.+) \|$", generate.pages()[f"reference/{name}.md"], re.M
    )
    shown = {part for key, *_ in rows for part in key.split(".")}
    assert shown == fields(MODELS[name])
    assert not [key for key, kind, default, meaning in rows if not (kind.strip() and default.strip() and meaning[:4])]
    assert len({key for key, *_ in rows}) == len(rows)


def test_the_page_of_a_study_is_what_the_command_prints(generate: ModuleType) -> None:
    page = generate.pages()["reference/study.md"]
    for key, default, meaning in documented_keys():
        assert re.search(rf"^\| `{re.escape(key)}` \|.*`{re.escape(default)}`|required", page, re.M)
        assert meaning.replace("|", "\\|") in page, key


def test_the_tables_have_every_event_and_exit_code(generate: ModuleType) -> None:
    made = generate.tables()
    ids = re.findall(r"^\| \[(\d+)\]", made["events-clinic"] + made["events-server"], re.M)
    assert ids == [str(event.id) for event in Event]
    own = {
        each.exit_code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.MelfedError)
    }
    assert len(own) == 15
    codes = re.findall(r"^\| (\d+) \|", made["exit-codes"], re.M)
    assert codes == [str(code) for code in sorted(own | {0, 2, 130})]


def test_kept_pages_have_the_tables_of_now(generate: ModuleType) -> None:
    kept = generate.kept_pages()
    assert {page.relative_to(DOCS).as_posix() for page in kept} == {"events/README.md", "exit-codes.md"}
    for page in kept:
        text = page.read_text(encoding="utf-8")
        assert text == generate.filled(text), "run: python docs/generate.py"


def test_a_table_that_is_not_of_now_is_renewed(generate: ModuleType) -> None:
    old = "before\n<!-- table: exit-codes -->\n| stale |\n<!-- end -->\nafter\n"
    new = generate.filled(old)
    assert "stale" not in new
    assert generate.tables()["exit-codes"] in new
    assert generate.filled(new) == new


def test_links_lead_to_pages_of_the_site(generate: ModuleType) -> None:
    readme = generate.in_site((REPOSITORY / "README.md").read_text(encoding="utf-8"), "README.md")
    assert "](docs/" not in readme
    assert "](contributing.md#" in readme
    deployed = "[a](../client/clinic.example.yaml) [b](events/README.md) [c](https://flower.ai)"
    assert generate.in_site(deployed, "docs/privacy.md") == (
        "[a](reference/clinic.md) [b](events/README.md) [c](https://flower.ai)"
    )
    assert generate.in_site("[a](../../README.md)", "docs/events/1001.md") == "[a](../index.md)"


def test_a_page_that_loads_from_elsewhere_is_found(generate: ModuleType) -> None:
    inside = (
        '<link rel="stylesheet" href="site.css"><script src="assets/x.js"></script><a href="https://flower.ai">f</a>'
    )
    assert generate.elsewhere(inside) is None
    assert generate.elsewhere(inside + '<script src="https://unpkg.com/shim"></script>') == "https://unpkg.com/shim"
    assert generate.elsewhere('<link rel="stylesheet" href="//fonts/x.css">') == "//fonts/x.css"


def test_every_page_has_its_place_in_the_navigation(generate: ModuleType) -> None:
    """What a strict build would say too."""

    def leaves(item: object) -> set[str]:
        if isinstance(item, str):
            return {item}
        return {leaf for each in (item.values() if isinstance(item, dict) else item) for leaf in leaves(each)}  # type: ignore[attr-defined]

    navigation = leaves(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    events = {page for page in written if re.fullmatch(r"events/\d+\.md", page)}
    assert navigation == (written - events) | set(generate.pages()) | set(generate.FROM_ROOT.values())


def test_the_tutorial_has_the_readmes_federation() -> None:
    assert commands("README.md", "### Three clinics") == commands("docs/tutorial.md", "## 3. Three clinics")[:1]


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_documented_options_exist(generate: ModuleType, page: str) -> None:
    known = {
        words: flags(found)
        for program, app in APPS.items()
        for words, found in parameters(typer.main.get_command(app), (program,)).items()
    }
    lines = [line for block in commands(page) for line in block if re.match(r"melfed-[a-z]+ ", line)]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" >")[0].partition(" #")[0])
        path = max((path for path in known if tuple(words[: len(path)]) == path), key=len)
        assert {word for word in words if word.startswith("--")} <= known[path], line


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
