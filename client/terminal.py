"""What the clinic's commands share: where they write, and errors in one line."""

import sys

import typer
from rich.console import Console

NOTICE = "melfed is research software and no medical device: do not use it for diagnosis."

# No markup and no emoji: a run may be called "[a]", and a path may hold ":100:".
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
output = Console(highlight=False, markup=False, emoji=False)
# A narrower terminal wraps the lines of a table, which is easier to read than cells that are cut to a few letters.
output.width = max(output.width, 130)


def run_app(app: typer.Typer) -> None:
    """Run a command; a `MelfedError` becomes one line on stderr and its exit code (Ctrl-C is Typer's: 130)."""
    from common.errors import MelfedError

    try:
        app()
    except MelfedError as error:
        errors.print(f"error: {error}", style="red")
        sys.exit(error.exit_code)
