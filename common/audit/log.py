"""The audit log: who asked what of a clinic, or what a server did, for somebody who does not trust the machine's users.

A file of JSON lines, one a record: `time` (UTC), `id`, `event` and `who` wrote it, the event's own fields, `previous`
and `hash` (`melfed.common.hash_chain`). So an edited, dropped or moved line is found by reading. That lines were cut
off at the end, or all hashes made anew, is found only by comparing with a head that was kept elsewhere: each record
goes to the system's journal too.

Records name no patient: an event lists its fields (`melfed.common.audit.events`), values are numbers and short texts,
and paths and names of images in a text are left out.

Several processes may write: each record locks the file, and is on the disk when `record` returns. What a crash has left
of a record is removed by the next one, which says so in `mended` (bytes). What a full disk keeps out of the file can be
held back until the next record (`record_or_hold`).
"""

import hashlib
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from melfed.common.audit.events import Event
from melfed.common.errors import StorageError
from melfed.common.files import sync, write_all
from melfed.common.hash_chain import GENESIS, NoRowError, seal, to_line, unseal
from melfed.common.locks import FileLock, HeldError, lock

LONGEST_TEXT = 300
"""Characters of a value; the rest is cut off."""

MOST_ITEMS = 1000
"""Items of a list; the rest is cut off."""

LOCK_SECONDS = 10.0
"""How long to wait for other writers, each of whom needs some milliseconds."""

MOST_HELD = 100
"""Records that are held back; of more, the oldest are dropped (the journal has had them)."""

LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""Lowest level and what syslog calls it."""

_NOTHING_NEW = ("alembic", "httpcore", "httpx", "uvicorn", "uvicorn.access", "uvicorn.error")
"""What writes a line for each request, each step of a start, or each table of a database that it makes."""

Value = str | int | float | bool | None | list[str]
Row = dict[str, Value]

logger = logging.getLogger("melfed.audit")

_TAIL = 65_536
_LONGEST_INPUT = 4 * LONGEST_TEXT
_LEFT_OUT = "[left out]"
_PLAIN = re.compile(r"[^\s\"=]+")
_PRIVATE = re.compile(
    r"(?<![\w.:/\\])(?:[A-Za-z]:\\|~?/)[^\s'\",;()]+"  # a path from the root or from home
    r"|[^\s'\",;()]+\.(?:jpe?g|png|bmp|gif|tiff?|webp|heic|dcm|dicom|nii|csv|tsv|xlsx?|parquet|npy|npz)\b"
    r"|\b(?:ISIC|HAM|IP|IL)_\d+\w*",
    re.IGNORECASE,
)


class AuditLog:
    """An audit log that one process appends to, perhaps among others."""

    def __init__(self, path: Path, who: str = "") -> None:
        """Nothing is written yet.

        Args:
            path: the log; made (0600) by the first record, in a folder that exists.
            who: which process writes, or which user gave the order.
        """
        self.path, self.who = path, who
        self._held: deque[tuple[Event, Mapping[str, Value], str]] = deque(maxlen=MOST_HELD)
        self._mutex = threading.RLock()

    def record(self, event: Event, **fields: Value) -> None:
        """Append a record, durably, and tell the logger "melfed.audit".

        Texts are cut to 300 printable characters; a number that is not finite becomes text.

        Raises:
            StorageError: it is not, or not for sure, in the file; what was there before is whole.
            TypeError: the event has no such field, or the value is of another type (a fault of the program).
        """
        clean = _cleaned(event, fields)
        with self._mutex:
            # The journal first: where the disk is full, it alone has it.
            logger.log(LEVELS[event.severity], "%d %s%s", event.id, event.short_name, _in_words(clean))
            self.write_held()
            with self._writing():
                self._append(event, clean)

    def record_or_hold(self, event: Event, **fields: Value) -> None:
        """Append a record; where that is impossible, hold it back until the next one, with the time of now.

        The journal has it at once. A hundred records are held at most, and by this object alone: they end with the
        process. Raises TypeError as `record`.
        """
        with self._mutex:
            try:
                self.record(event, **fields)
            except StorageError:
                self._held.append((event, _cleaned(event, fields), _now()))

    def write_held(self) -> None:
        """Append what was held back. Raises StorageError as `record`."""
        with self._mutex, self._writing():
            while self._held:
                self._append(*self._held[0])
                self._held.popleft()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written: {error.strerror or error}"
            advice = "free space, or see that its folder exists and can be written to"
            raise StorageError(f"{self.path}: {reason}; {advice}, and try again") from error

    def _append(self, event: Event, fields: Mapping[str, Value], at: str | None = None) -> None:
        with _locked(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as held:
            descriptor = held.descriptor
            size, head, torn = _end_of(descriptor)
            about: Row = {"time": at or _now(), "id": event.id, "event": event.short_name, "who": _text(self.who)}
            row: Row = {**about, **fields}
            if torn:
                os.ftruncate(descriptor, size)
                row["mended"] = torn
            row["previous"] = head
            try:
                write_all(descriptor, to_line(seal(row)))
                os.fsync(descriptor)
                if not size:
                    sync(self.path.parent)
            except OSError:
                os.ftruncate(descriptor, size)
                raise


@dataclass(frozen=True)
class VerifiedLog:
    """What a look at all of a log has found.

    Attributes:
        rows: how many records are whole and follow each other from the first on.
        head: hash of the last of them, 64 zeros without one. To be kept elsewhere, and compared with.
        error: the first line that is not as it was written, in words; None: the log is whole.
        torn: bytes at the end that a crash has left, and that the next record removes.
    """

    rows: int
    head: str
    error: str | None
    torn: int = 0

    @property
    def counted(self) -> str:
        """How many records, in words."""
        return f"{self.rows} record{'' if self.rows == 1 else 's'}"


def verify_log(path: Path, head: str | None = None) -> VerifiedLog:
    """Check a log from its first line to its last; nothing is written.

    Args:
        path: the log.
        head: hash of a record that was kept elsewhere: the log must have it, else lines were cut off or replaced.

    Raises:
        StorageError: there is no log, or it cannot be read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "audit.jsonl")
    ...     AuditLog(path, who="worker").record(Event.WORKER_STARTED, version="0.2.0")
    ...     whole = verify_log(path)
    ...     _ = path.write_text(path.read_text().replace("0.2.0", "0.1.0"))
    ...     edited = verify_log(path)
    ...
    >>> whole.rows, whole.error, edited.error is None
    (1, None, False)
    """
    with _opened(path) as (lines, torn):
        previous, rows, found = GENESIS, 0, head in (None, GENESIS)
        error = None
        for line in lines:
            digest, row = _parse(line)
            if row is None:
                error = "is not what was written: its hash does not fit"
            elif row.get("previous") != previous:
                error = "does not follow the line before it: lines were dropped, moved or replaced"
            if error is not None:
                break
            previous, rows = digest, rows + 1
            found = found or digest == head
        else:
            error = None if found else f"no record has the hash {head}: lines were cut off or replaced"
    return VerifiedLog(rows, previous, error and f"{path}: line {rows + 1}: {error}", torn)


def read_log(path: Path) -> Iterator[Row]:
    """Yield the records of a log, in order; lines that are none are left to `verify_log`.

    Raises:
        StorageError: there is no log, or it cannot be read.
    """
    with _opened(path) as (lines, _):
        for line in lines:
            row = _parse(line)[1]
            if row is not None:
                yield row


def configure_logging(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send all of this process's logs to one stream (None: stderr) in place of where they went before.

    Each line has its time in UTC; or, where the stream is the system's journal, which adds that itself, its priority.
    Libraries that tell of every step are heard from WARNING on, also of the steps of their import that come after this.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JournalLines() if _is_journal(handler.stream) else _PlainLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _NOTHING_NEW:
        logging.getLogger(name).setLevel(logging.WARNING)


class _PlainLines(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")


class _JournalLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Begin every line with its priority, as sd-daemon(3) has it."""
        worst = next(number for level, number in PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{worst}>{line}" for line in super().format(record).splitlines() or [""])


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream is what $JOURNAL_STREAM names by device and inode; a redirected one is not."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[bytes], int]]:
    """Give the whole lines of a log, and the number of torn bytes after them.

    What is whole is never changed, so the lock is needed for as long only as it takes to see where that ends.
    """
    try:
        with path.open("rb") as file:
            with _locked(path, os.O_RDONLY, shared=True):
                whole, _, torn = _end_of(file.fileno())
            yield _lines(file, whole), torn
    except FileNotFoundError:
        raise StorageError(f"{path}: there is no audit log; it begins with the first event") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}; see to its permissions") from error


def _lines(file: BinaryIO, whole: int) -> Iterator[bytes]:
    while whole > 0 and (line := file.readline(whole)):
        whole -= len(line)
        yield line


def _parse(line: bytes) -> tuple[str, Row | None]:
    """Return what the next line has to name as the one before it, and the record; None where the line is none."""
    content = line.rstrip(b"\n")
    try:
        row = cast(Row, unseal(content))
    except NoRowError:
        # A log with a damaged end goes on: more would be lost if it did not. The damage stays to be found.
        return hashlib.sha256(content).hexdigest(), None
    return str(row["hash"]), row


def _end_of(descriptor: int) -> tuple[int, str, int]:
    """Return the bytes of all whole lines, what the next one names as the one before it, and torn bytes after them."""
    size = os.fstat(descriptor).st_size
    length = _TAIL
    while True:
        start = max(0, size - length)
        tail = os.pread(descriptor, size - start, start)
        # The last piece has no end of line; it is empty unless torn. A power cut may leave zeros in place of a line.
        lines = tail.split(b"\n")
        torn = len(lines.pop())
        while lines and b"\0" in lines[-1]:
            torn += len(lines.pop()) + 1
        if len(lines) > 1 or start == 0:
            break
        length *= 2
    head = _parse(lines[-1])[0] if lines else GENESIS
    return size - torn, head, torn


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _cleaned(event: Event, fields: Mapping[str, object]) -> dict[str, Value]:
    """Return an event's fields as they may stand in a record. Raises TypeError."""
    unknown = sorted(set(fields) - set(event.fields))
    if unknown:
        raise TypeError(f"event {event.id} {event.short_name} has no field {', '.join(unknown)}")
    return {name: _clean(name, value) for name, value in fields.items()}


def _clean(name: str, value: object) -> Value:
    """Return a value as it may stand in a record. Raises TypeError."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return [_text(item) for item in value[:MOST_ITEMS]]
    raise TypeError(f"{name} is a {type(value).__name__}, which no audit log takes")


def printable(text: str) -> str:
    """Return a text on one line, without anything that a terminal would take for a command."""
    return "".join(character if character.isprintable() else " " for character in text)


def _text(text: str) -> str:
    shown = printable(text[:_LONGEST_INPUT])
    if len(text) > _LONGEST_INPUT:  # half a file name would not be known as one
        shown = f"{shown.rpartition(' ')[0]}…"
    line = _PRIVATE.sub(_LEFT_OUT, shown)
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def _in_words(fields: Mapping[str, Value]) -> str:
    words = [(name, ",".join(value) if isinstance(value, list) else str(value)) for name, value in fields.items()]
    quoted = [(name, word if _PLAIN.fullmatch(word) else json.dumps(word, ensure_ascii=False)) for name, word in words]
    return "".join(f" {name}={word}" for name, word in quoted)


def _locked(path: Path, flags: int, *, shared: bool = False) -> FileLock:
    try:
        return lock(path, LOCK_SECONDS, shared=shared, flags=flags)
    except HeldError as holder:
        raise TimeoutError(f"{holder} has held it for {LOCK_SECONDS:g} s") from None
