"""The clinic's command, `melfed-client`."""

import typer

from client import daemon_commands, log_commands, study_commands
from client.ledger_commands import ledger_app
from client.terminal import NOTICE, VersionOption, run_app

app = typer.Typer(
    name="melfed-client",
    help=f"Federated melanoma classification: a clinic. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(version: VersionOption = False) -> None:
    """Keep the commands as sub-commands."""


daemon_commands.add_to(app)
study_commands.add_to(app)
log_commands.add_to(app)
app.add_typer(ledger_app, no_args_is_help=True)


def main() -> None:
    """Entry point of `melfed-client`."""
    run_app(app)


if __name__ == "__main__":
    main()
