"""`melfed-client log`: the clinic's audit logs, that of the worker and that of the processes that carry messages."""

import typer

from melfed.client.cli.options import ConfigOption, clinic
from melfed.common.terminal.audit_rows import HeadOption, LastOption, SinceOption, show_rows, show_verified
from melfed.common.terminal.console import JsonOption

log_app = typer.Typer(name="log", help="What was asked of this clinic, and what became of it (the audit log).")


def add_to(app: typer.Typer) -> None:
    """Add these commands to `melfed-client`."""
    app.add_typer(log_app)


@log_app.callback(invoke_without_command=True)
def log(
    context: typer.Context,
    since: SinceOption = None,
    last: LastOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what was asked of this clinic, and what became of it. docs/events has a page for each number.

    Each line names the log that it is in: whoever runs the messenger can write what they like into that one.
    """
    if context.invoked_subcommand is not None:
        if since is not None or last is not None or as_json or config is not None:
            raise typer.BadParameter("give options after the sub-command")
        return
    from melfed.client.logs import records

    show_rows(records(clinic(config)), since, last, as_json)


@log_app.command()
def verify(head: HeadOption = None, config: ConfigOption = None) -> None:
    """Check that no line was edited, dropped or moved since it was written.

    Whoever can write the log could replace all of it. A head that was kept elsewhere finds that out: one that this
    command has printed before.
    """
    from melfed.client.logs import logs

    show_verified(logs(clinic(config)), head)
