"""`melfed-client log`: the clinic's audit logs, that of the worker and that of the processes that carry messages."""

from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from melfed.client.cli.options import ConfigOption, clinic
from melfed.common.errors import StorageError
from melfed.common.terminal.audit_rows import HeadOption, LastOption, SinceOption, show_rows, show_verified
from melfed.common.terminal.console import JsonOption

if TYPE_CHECKING:
    from melfed.client.config.clinic import ClinicConfig
    from melfed.common.audit.log import Row

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
    show_rows(_rows(clinic(config)), since, last, as_json)


@log_app.command()
def verify(head: HeadOption = None, config: ConfigOption = None) -> None:
    """Check that no line was edited, dropped or moved since it was written.

    Whoever can write the log could replace all of it. A head that was kept elsewhere finds that out: one that this
    command has printed before.
    """
    show_verified(_logs(clinic(config)), head)


def _logs(here: "ClinicConfig") -> list[Path]:
    """Return the logs that are there. Raises StorageError where there is none, or this user may not look."""
    paths = [here.audit_log, here.messenger_audit_log]
    try:
        there = [path for path in paths if path.exists()]
    except PermissionError as error:
        raise StorageError(f"{error.filename}: this user may not read it; run this as root") from None
    if not there:
        raise StorageError(f"{here.audit_log}: there is no audit log yet; it begins with the first event")
    return there


def _rows(here: "ClinicConfig") -> "Iterator[Row]":
    """Yield the records of all logs, in the order of their times."""
    from melfed.common.audit.log import read_log

    names = {here.audit_log: "worker", here.messenger_audit_log: "messenger"}

    def named(path: Path) -> "Iterator[Row]":
        return ({**row, "log": names[path]} for row in read_log(path))

    return merge(*map(named, _logs(here)), key=lambda row: str(row.get("time", "")))
