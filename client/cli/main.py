"""The clinic's command, `melfed-client`."""

import typer

from melfed.client.cli import daemon as daemon_commands
from melfed.client.cli import log as log_commands
from melfed.client.cli import page as page_commands
from melfed.client.cli import study as study_commands
from melfed.client.cli.ledger import ledger_app
from melfed.client.cli.models import model_app
from melfed.common.terminal.console import NOTICE, VersionOption, run_app

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
page_commands.add_to(app)
app.add_typer(ledger_app, no_args_is_help=True)
app.add_typer(model_app, no_args_is_help=True)


def main() -> None:
    """Entry point of `melfed-client`."""
    run_app(app)


if __name__ == "__main__":
    main()
