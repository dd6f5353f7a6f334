"""What the clinic's commands share: where they write, errors in one line, how the configuration is found."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from melfed.client.config.clinic import ClinicConfig

NOTICE = "melfed is research software and no medical device: do not use it for diagnosis."

# No markup and no emoji: a run may be called "[a]", and a path may hold ":100:".
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
output = Console(highlight=False, markup=False, emoji=False)
if not output.is_terminal and "COLUMNS" not in os.environ:
    # A file or a pipe has no width that a table must fit into.
    output.width = 130


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.print(f"melfed {version('melfed')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print melfed's version.")
]
_WHERE = "The clinic's clinic.yaml; else MELFED_CLINIC, ./clinic.yaml, /etc/melfed/clinic.yaml."
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=_WHERE, show_default=False)]
ConfigArgument = Annotated[Path | None, typer.Argument(metavar="[CLINIC.YAML]", help=_WHERE, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def clinic(*named: Path | None, complete: bool = True) -> "ClinicConfig":
    """Return the clinic's configuration.

    Args:
        named: what the command line names: option or argument.
        complete: whether name, coordinator and data must be in it.

    Raises:
        PolicyError: it is not found, or wrong.
    """
    from melfed.client.config.clinic import find_clinic, read_clinic

    paths = [path for path in named if path is not None]
    if len(paths) > 1:
        raise typer.BadParameter("name clinic.yaml once", param_hint="--config")
    return read_clinic(find_clinic(paths[0] if paths else None), complete=complete)


def run_app(app: typer.Typer) -> None:
    """Run a command; a `MelfedError` becomes one line on stderr and its exit code (Ctrl-C is Typer's: 130)."""
    from melfed.common.errors import MelfedError

    try:
        app()
    except MelfedError as error:
        errors.print(f"error: {error}", style="red")
        sys.exit(error.exit_code)
