"""The three commands agree: an option of the same name is written alike, and doctors leave alike."""

from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

import melfed.client.cli.main
import melfed.server.cli.main
import melfed.simulations.cli.main

APPS = {
    "melfed-client": melfed.client.cli.main.app,
    "melfed-server": melfed.server.cli.main.app,
    "melfed-sim": melfed.simulations.cli.main.app,
}
FILE = {"melfed-client": "[CLINIC.YAML]", "melfed-server": "[SERVER.YAML]"}


def commands(app: typer.Typer) -> Iterator[tuple[str, click.Command]]:
    """Every command of an app with its words."""

    def walk(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield " ".join(words), command
        for name, below in getattr(command, "commands", {}).items():
            yield from walk((*words, name), below)

    yield from walk((), typer.main.get_command(app))


def options(name: str) -> set[tuple[tuple[str, ...], object]]:
    """How a parameter is written, in all commands that have it."""
    return {
        (tuple(parameter.opts), parameter.is_flag)
        for app in APPS.values()
        for _, command in commands(app)
        for parameter in command.params
        if parameter.name == name and isinstance(parameter, click.Option)
    }


@pytest.mark.parametrize(
    ("name", "written", "flag"),
    [
        ("config", ("--config",), False),
        ("as_json", ("--json",), True),
        ("since", ("--since",), False),
        ("last", ("--last", "-n"), False),
        ("head", ("--head",), False),
        ("version", ("--version",), True),
        ("diagnoses", ("--diagnosis",), False),
        ("overrides", ("--set",), False),
        ("cache", ("--cache",), False),
    ],
)
def test_an_option_is_written_alike_in_all_commands(name: str, written: tuple[str, ...], flag: bool) -> None:
    assert options(name) == {(written, flag)}


@pytest.mark.parametrize("app", sorted(FILE))
@pytest.mark.parametrize("command", ["start", "status", "doctor"])
def test_the_configuration_is_named_by_an_argument_or_an_option(app: str, command: str) -> None:
    found = dict(commands(APPS[app]))[command]
    (argument,) = (each for each in found.params if isinstance(each, click.Argument))
    assert (argument.metavar, argument.required) == (FILE[app], False)
    result = CliRunner().invoke(APPS[app], [command, "a.yaml", "--config", "b.yaml"])
    assert (result.exit_code, "once" in result.output) == (2, True)


@pytest.mark.parametrize("app", sorted(FILE))
def test_logs_show_as_many_rows(app: str) -> None:
    help_of = {
        each.name: each.show_default
        for each in dict(commands(APPS[app]))["log"].params
        if isinstance(each, click.Option)
    }
    assert help_of["last"] == "50, or all with --since"


@pytest.mark.parametrize("app", APPS)
def test_every_argument_and_option_says_what_it_is(app: str) -> None:
    """With click 8.5 and Flower's typer, arguments said nothing (findings/click-drops-typers-help.sh)."""
    silent = []
    for path, command in commands(APPS[app]):
        shown = CliRunner().invoke(APPS[app], [*path.split(), "--help"]).output
        for parameter in command.params:
            words = (getattr(parameter, "help", None) or "").split()
            if not words or words[0] not in shown:
                silent.append(f"{path}: {parameter.name}")
    assert silent == []
