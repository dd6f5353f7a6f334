"""Points in time on the command line: how far back to look, and how long ago something was."""

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"^(\d{1,6})([smhd])$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(since: str) -> str:
    """Return a point in time as the audit logs write it.

    Args:
        since: 30m, 12h, 7d (before now), or a date and time, UTC where it names no zone.

    Raises:
        ValueError: it is none of these; the text says what to write.
    """
    ago = _AGO.match(since)
    try:
        if ago is not None:
            found = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            found = datetime.fromisoformat(since)
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{since}: write 30m, 12h, 7d, or 2030-01-31T12:00") from None
    return found.isoformat(timespec="milliseconds")


def ago(time: str, now: datetime | None = None) -> str:
    """Return how long ago a time (ISO 8601 with its zone) was, as "4 min ago"; what is no such time as it stands."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(time)).total_seconds()
    except (ValueError, TypeError):
        return time
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """Return a length of time in the largest unit of which it has two.

    >>> span(4), span(119), span(7200)
    ('4 s', '119 s', '2 h')
    """
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
