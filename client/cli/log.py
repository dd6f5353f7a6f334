"""`melfed-client log`: the clinic's audit logs, that of the worker and that of the processes that carry messages."""

import json
import sys
from collections import deque
from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.client.cli.options import ConfigOption, JsonOption, clinic, errors, output
from melfed.common.errors import LedgerError, StorageError

if TYPE_CHECKING:
    from melfed.client.config.clinic import ClinicConfig
    from melfed.common.audit.log import Row

log_app = typer.Typer(name="log", help="What was asked of this clinic, and what became of it (the audit log).")

_OF_THE_CHAIN = frozenset({"log", "time", "id", "event", "who", "previous", "hash"})
_STYLES = {"info": None, "warning": "yellow", "error": "red"}

SinceOption = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="From then on: 30m, 12h, 7d, or a date and time (UTC).", show_default=False),
]
LastOption = Annotated[
    int | None, typer.Option("--last", "-n", min=1, max=100_000, help="How many records.", show_default="all")
]


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
    from melfed.common.audit.events import Event

    severities = {event.id: event.severity for event in Event}
    first = _moment(since) if since is not None else ""
    rows = (row for row in _rows(clinic(config)) if not _is_ours(row) or str(row["time"]) >= first)
    for row in rows if last is None else deque(rows, maxlen=last):
        if as_json:
            sys.stdout.write(json.dumps(row) + "\n")
            continue
        number = row.get("id")
        severity = severities.get(number, "info") if isinstance(number, int) else "error"
        output.print(_in_words(row), style=_STYLES[severity], soft_wrap=True)


@log_app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A hash that one of the logs must have a line of.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check that no line was edited, dropped or moved since it was written.

    Whoever can write the log could replace all of it. A head that was kept elsewhere finds that out: one that this
    command has printed before.
    """
    from melfed.common.audit.log import verify_log

    paths = _logs(clinic(config))
    found = {path: verify_log(path) for path in paths}
    for path, verified in found.items():
        if verified.error is not None:
            raise LedgerError(f"{verified.error}; keep the file as it is, and find out who wrote to it")
        sys.stdout.write(f"{path}: {verified.counted}, chain whole, head {verified.head}\n")
        if verified.torn:
            errors.print(f"{path}: a crash has left {verified.torn} bytes of a record; the next record removes them")
    if head is not None and not any(verify_log(path, head).error is None for path in paths):
        raise LedgerError(f"no record of {' or '.join(map(str, paths))} has the hash {head}: lines were cut off")


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


def _moment(since: str) -> str:
    """Return a point in time as the logs write it. Raises typer.BadParameter."""
    from melfed.common.terminal.times import moment

    try:
        return moment(since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


def _is_ours(row: "Row") -> bool:
    """Tell whether a record has what melfed gives each."""
    return isinstance(row.get("id"), int) and isinstance(row.get("time"), str)


def _in_words(row: "Row") -> str:
    from melfed.common.audit.log import printable

    fields = (f"{name}={_text(value)}" for name, value in row.items() if name not in _OF_THE_CHAIN)
    start = (str(row.get(name, "")) for name in ("log", "id", "event", "who"))
    mark = () if _is_ours(row) else ("NOT WRITTEN BY MELFED:",)
    return printable(" ".join([*mark, str(row.get("time", ""))[:19], *(word for word in start if word), *fields]))


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
