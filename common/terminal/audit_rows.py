"""What `log` shows of audit logs, and `log verify` says of them, at clinics and at the coordinator."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.errors import LedgerError
from melfed.common.terminal.console import errors, output

if TYPE_CHECKING:
    from melfed.common.audit.log import Row

LAST = 50
"""Records that are shown where neither their number nor a time is named."""

SinceOption = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="From then on: 30m, 12h, 7d, or a date and time (UTC).", show_default=False),
]
LastOption = Annotated[
    int | None,
    typer.Option(
        "--last", "-n", min=1, max=100_000, help="How many records.", show_default=f"{LAST}, or all with --since"
    ),
]
HeadOption = Annotated[
    str | None, typer.Option(metavar="HASH", help="A hash that a log must have a line of.", show_default=False)
]

_OF_THE_CHAIN = frozenset({"log", "time", "id", "event", "who", "previous", "hash"})
_STYLES = {"info": None, "warning": "yellow", "error": "red"}


def show_rows(rows: "Iterable[Row]", since: str | None, last: int | None, as_json: bool) -> None:
    """Print records.

    Args:
        rows: in order. One that a log's writer has made up has no time, and is never left out for it.
        since: as the option.
        last: as the option.
        as_json: a line of JSON a record.

    Raises:
        typer.BadParameter: `since` is no time.
    """
    from melfed.common.audit.events import Event

    severities = {event.id: event.severity for event in Event}
    first = _moment(since) if since is not None else ""
    found = (row for row in rows if not _is_ours(row) or str(row["time"]) >= first)
    for row in found if last is None and since is not None else deque(found, maxlen=last or LAST):
        if as_json:
            sys.stdout.write(json.dumps(row) + "\n")
            continue
        number = row.get("id")
        severity = severities.get(number, "info") if isinstance(number, int) else "error"
        output.print(_in_words(row), style=_STYLES[severity], soft_wrap=True)


def show_verified(paths: Sequence[Path], head: str | None) -> None:
    """Say that logs are whole.

    Args:
        paths: the logs.
        head: a hash that one of them must have a line of.

    Raises:
        LedgerError: one is not whole, or none has that line.
        StorageError: one cannot be read.
    """
    from melfed.common.audit.log import verify_log

    for path in paths:
        found = verify_log(path)
        if found.error is not None:
            raise LedgerError(f"{found.error}; keep the file as it is, and find out who wrote to it")
        sys.stdout.write(f"{path}: {found.counted}, chain whole, head {found.head}\n")
        if found.torn:
            errors.print(f"{path}: a crash has left {found.torn} bytes of a record; the next record removes them")
    if head is not None and not any(verify_log(path, head).error is None for path in paths):
        raise LedgerError(f"no record of {' or '.join(map(str, paths))} has the hash {head}: lines were cut off")


def _moment(since: str) -> str:
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
