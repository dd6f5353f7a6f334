"""What the three commands share: where they write, options of the same name, and errors in one line."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from melfed.common.errors import MelfedError, StorageError

NOTICE = "melfed is research software and no medical device: do not use it for diagnosis."

# No markup and no emoji: a clinic may be called "[a]", and "study.yaml:100:" is not a hundred points.
# Lines to stdout and stderr in a notebook too, and not a piece of HTML each.
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False, force_jupyter=False)
output = Console(highlight=False, markup=False, emoji=False, force_jupyter=False)
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run_app(app: typer.Typer) -> None:
    """Run a command; a `MelfedError` becomes one line on stderr and its exit code (Ctrl-C is Typer's: 130)."""
    # Read when gRPC is loaded: its C core writes lines of its own to stderr, which say nothing that no error says.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app()
    except PermissionError as error:  # of whoever looks into folders that are another user's alone
        if error.filename is None:
            raise
        _leave(StorageError(f"{error.filename}: {error.strerror}; see who owns it, and give this command as that user"))
    except MelfedError as error:
        _leave(error)


def _leave(error: MelfedError) -> None:
    errors.print(f"error: {error}", style="red")
    sys.exit(error.exit_code)
