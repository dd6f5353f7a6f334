"""`melfed-server log`: the coordinator's audit log."""

import json
import sys
from collections import deque
from typing import Annotated

import typer

from melfed.common.errors import LedgerError
from melfed.server.cli.options import Config, Json, configuration, errors, output

log_app = typer.Typer(name="log", help="What happened on this server (the audit log).")

_OF_THE_CHAIN = frozenset({"time", "id", "event", "previous", "hash"})


def add_to(app: typer.Typer) -> None:
    """Add these commands to `melfed-server`."""
    app.add_typer(log_app)


@log_app.callback(invoke_without_command=True)
def log(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="From then on: 30m, 12h, 7d, or a date and time (UTC).", show_default=False),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last", "-n", min=1, max=100_000, help="How many records.", show_default="50, or all with --since"
        ),
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Show what happened on this server. docs/events has a page for each number."""
    if context.invoked_subcommand is not None:
        if since is not None or last is not None or as_json or config is not None:
            raise typer.BadParameter("give options after the sub-command")
        return
    from melfed.common.audit.log import read_log

    first = _moment(since) if since is not None else ""
    rows = (row for row in read_log(configuration(config).audit_log) if str(row.get("time", "")) >= first)
    for row in rows if last is None and since else deque(rows, maxlen=last or 50):
        if as_json:
            sys.stdout.write(json.dumps(row) + "\n")
            continue
        about = {key: value for key, value in row.items() if key not in _OF_THE_CHAIN and value not in ("", None, [])}
        words = " ".join(f"{key}={value}" for key, value in about.items())
        output.print(f"{row['time']} {row['id']} {row['event']} {words}", soft_wrap=True)


def _moment(since: str) -> str:
    """Return a point in time as the log writes it. Raises typer.BadParameter."""
    from melfed.common.terminal.times import moment

    try:
        return moment(since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


@log_app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A hash that the log must have a line of.", show_default=False),
    ] = None,
    config: Config = None,
) -> None:
    """Check that no line was edited, dropped or moved since it was written.

    Whoever can write the log could replace all of it. A head that was kept elsewhere finds that out: one that this
    command has printed before.
    """
    from melfed.common.audit.log import verify_log

    path = configuration(config).audit_log
    found = verify_log(path, head)
    if found.error is not None:
        raise LedgerError(f"{found.error}; keep the file as it is, and find out who wrote to it")
    sys.stdout.write(f"{path}: {found.counted}, chain whole, head {found.head}\n")
    if found.torn:
        errors.print(f"{path}: a crash has left {found.torn} bytes of a record; the next record removes them")
