"""What the texts for users name is there: commands, files, and what an uninstallation removes."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer
import yaml

from melfed.client.cli.main import app as client
from melfed.server.cli.main import app as server
from melfed.simulations.cli.main import app as simulations
from tests.conftest import REPOSITORY

APPS = {"melfed-client": client, "melfed-server": server, "melfed-sim": simulations}
TEMPLATES = REPOSITORY / "server" / "provisioning" / "templates"
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *TEMPLATES.glob("*.md")])
OPERATIONS = REPOSITORY / "docs" / "operations.md"


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def commands(app: typer.Typer) -> set[str]:
    group = typer.main.get_command(app)
    return set(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_named_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for program, app in APPS.items():
        assert set(re.findall(rf"{program} ([a-z]+)\b", text)) <= commands(app)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("text", [OPERATIONS, TEMPLATES / "clinic-README.md"], ids=name)
def test_an_uninstallation_removes_what_an_installation_made(text: Path) -> None:
    """All that install.sh puts below /etc, whatever the folder that it is in."""
    installers = [TEMPLATES / "clinic-install.sh"] if text != OPERATIONS else sorted(TEMPLATES.glob("*-install.sh"))
    made = {
        path.replace("$unit", "melfed-worker.service")
        for installer in installers
        for path in re.findall(r'install -D [^\n]* "\$root(/etc/[^"]+)"', installer.read_text(encoding="utf-8"))
    }
    assert len(made) == 3 * len(installers)
    removed = re.findall(r"/etc/[\w./*-]+", text.read_text(encoding="utf-8"))
    assert "/etc/melfed" in removed
    assert [path for path in made if not any(fnmatch(path, pattern) for pattern in removed)] == []


def test_the_citation_is_of_this_version() -> None:
    content = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [content[key] for key in ("title", "version", "license")] == [
        project[key] for key in ("name", "version", "license")
    ]
    assert content["references"][0]["url"] == "https://arxiv.org/abs/2011.04475"
