"""`melfed-server log`: the coordinator's audit log."""

import typer

from melfed.common.terminal.audit_rows import HeadOption, LastOption, SinceOption, show_rows, show_verified
from melfed.common.terminal.console import JsonOption
from melfed.server.cli.options import ConfigOption, configuration

log_app = typer.Typer(name="log", help="What happened on this server (the audit log).")


def add_to(app: typer.Typer) -> None:
    """Add these commands to `melfed-server`."""
    app.add_typer(log_app)


@log_app.callback(invoke_without_command=True)
def log(
    context: typer.Context,
    since: SinceOption = None,
    last: LastOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what happened on this server. docs/events has a page for each number."""
    if context.invoked_subcommand is not None:
        if since is not None or last is not None or as_json or config is not None:
            raise typer.BadParameter("give options after the sub-command")
        return
    from melfed.common.audit.log import read_log

    show_rows(read_log(configuration(config).audit_log), since, last, as_json)


@log_app.command()
def verify(head: HeadOption = None, config: ConfigOption = None) -> None:
    """Check that no line was edited, dropped or moved since it was written.

    Whoever can write the log could replace all of it. A head that was kept elsewhere finds that out: one that this
    command has printed before.
    """
    show_verified([configuration(config).audit_log], head)
