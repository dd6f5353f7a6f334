"""The last records of audit logs, as a live page shows them: words, whoever wrote them."""

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melfed.common.audit.events import Event
from melfed.common.audit.log import LONGEST_TEXT, printable
from melfed.common.page.tail import Row, Tail

RECORDS = 200
"""Of each log, so many are shown."""
BYTES = 200_000
"""From a log's end, in which they are looked for."""
_OF_THE_CHAIN = frozenset({"time", "id", "event", "who", "previous", "hash"})
_KNOWN = {event.id: event for event in Event}


class LastRecords:
    """The last records of some logs, newest first."""

    def __init__(self, logs: Mapping[Path, str], most: int = RECORDS) -> None:
        """Nothing is read yet; `logs` says what each is called, empty where there is only one."""
        self._logs = [(name, Tail(path, BYTES), deque[Row](maxlen=most)) for path, name in logs.items()]

    def look(self) -> list[Row]:
        """Return the records as they are now. Raises OSError where a log cannot be read."""
        for name, tail, kept in self._logs:
            if tail.began_anew():
                kept.clear()
            kept.extend(shown(row, name) for row in tail.rows())
        # The sort keeps the order of records that share a millisecond: each log is given to it newest first.
        every = [row for _, _, kept in self._logs for row in reversed(kept)]
        return sorted(every, key=lambda row: str(row["time"]), reverse=True)


def shown(row: Row, log: str = "") -> Row:
    """Return a record as JSON that a page can show: of every value its words, printable and short.

    >>> row = shown({"time": "2030-01-01T00:00:00", "id": 2006, "event": "round-finished", "round": 3})
    >>> row["name"], row["severity"], row["fields"]
    ('round-finished', 'info', {'round': '3'})
    """
    number = row.get("id")
    event = _KNOWN.get(number) if isinstance(number, int) else None
    return {
        "time": _words(row.get("time", "")),
        "id": number if event else 0,
        "name": event.short_name if event else "not written by melfed",
        "severity": event.severity if event else "error",
        "meaning": event.value.meaning if event else "",
        "who": _words(row.get("who", "")),
        "log": log,
        "fields": {_words(name): _words(value) for name, value in row.items() if name not in _OF_THE_CHAIN},
    }


def _words(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = printable(text[: 2 * LONGEST_TEXT])
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def finite(value: float | None) -> float | None:
    """Return a number as JSON has it: none where it is not finite."""
    return value if value is not None and math.isfinite(value) else None
