"""An append-only file of JSON lines in which every row names the hash of the row before it.

A line is one JSON object. It begins with `sequence` (1 in the first line), `time` (UTC) and `previous`, and ends with
`hash` (`melfed.common.hash_chain`). So any changed byte, and any row that is dropped, moved or doubled, is found by
reading. What is cut off at the end is found by a second file, NAME.head, that holds the number of rows and the last
hash, and is replaced after every row.

A row is written in this order: append, fsync; then write, fsync and rename NAME.head, fsync the folder. It counts as
written when the last of these has returned. So a crash leaves at most one row, whole or torn, that NAME.head does not
know. A torn one is removed: its writer was never told that it is written. A whole one is kept: it can only count too
much, and may be one that was written after all, where NAME.head came from a backup. Anything else that does not fit is
damage: a LedgerError, and nothing is written any more.

Whoever rewrites both files, hashes included, is found only by comparing with a head that was kept elsewhere.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from melfed.client.ledger.disk import Disk
from melfed.common.errors import LedgerError, StorageError
from melfed.common.hash_chain import GENESIS, Content, NoRowError, seal, to_line, unseal
from melfed.common.locks import FileLock, HeldError

LONGEST_ROW = 4096
"""Bytes of a line: what is longer is no row."""

CLOCK_SLACK = timedelta(days=1)
"""How far the clock may lie behind the last row: time servers step it, and machines that keep local time shift it by
hours. Rows written meanwhile repeat the last time. The order of the rows never rests on the clock."""

ADVICE = "train nothing on these data before that is understood; restore the ledger and its .head from one backup"

Receive = Callable[[Content], None]
Clock = Callable[[], datetime]

_HEAD = re.compile(rb'\{"rows":(0|[1-9][0-9]{0,11}),"head":"([0-9a-f]{64})"\}\n')
_ATTEMPTS = 100


@dataclass(frozen=True)
class Chain:
    """Where a journal ends: rows, hash and time of the last, bytes of all whole rows.

    `torn` bytes follow that are no row, and `ahead` rows (0 or 1) are not in NAME.head yet: both are left by a crash.
    """

    rows: int = 0
    head: str = GENESIS
    time: datetime | None = None
    size: int = 0
    torn: int = 0
    ahead: int = 0


class Journal:
    """One such file. Rows can be appended between `hold` and `let_go`."""

    def __init__(self, path: Path, disk: Disk, clock: Clock) -> None:
        self.path = path
        self.chain = Chain()
        self._known = b""
        self._disk, self._clock = disk, clock
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        """Whether rows can be appended."""
        return self._lock is not None

    def read(self, receive: Receive, restart: Callable[[], None] | None = None) -> None:
        """Read and check the file without locking it; every row is given to `receive`, which may raise LedgerError.

        Args:
            receive: takes a row.
            restart: is called before the rows come from the first on. Unless it is, they are those that follow what
                this object has read or written before: the file still begins with the very bytes that were checked
                then, and NAME.head with their count and hash, or more. None: always from the first on.

        Raises:
            LedgerError: the file is damaged, or cannot be read.
        """
        data, head = self._both()
        committed = _committed(self.path, data, head)
        known = self._known if restart and self._still_there(data or b"", committed) else b""
        before = replace(self.chain, torn=0, ahead=0) if known else Chain()
        self.forget()
        if restart and not known:
            restart()
        self.chain = _follow(self.path, (data or b"")[len(known) :], committed, receive, before)
        self._known = (data or b"")[: self.chain.size]

    def forget(self) -> None:
        """Begin with the first row the next time."""
        self._known = b""

    def hold(self, seconds: float, receive: Receive, restart: Callable[[], None] | None = None) -> None:
        """Lock the file, `read` it, make durable what was read, and mend what a crash has left.

        Raises:
            LedgerError: as `read`; or another process holds the file for longer than `seconds`.
            StorageError: the file cannot be written.
        """
        try:
            self._lock = self._disk.lock(self.path, seconds)
        except HeldError as holder:
            reason = f"{holder} has been spending from this ledger for {seconds:g} s"
            raise LedgerError(f"{self.path}: {reason}; wait until it is done, or stop it") from None
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            self.read(receive, restart)
            self._mend()
        except OSError as error:
            self.let_go()
            raise _unwritable(self.path, error) from error
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_clock(self) -> datetime:
        """Return the time for the next row, never before that of the last.

        Raises:
            LedgerError: the clock has gone back further than `CLOCK_SLACK`.
        """
        now, last = self._clock(), self.chain.time
        if last is None or now >= last:
            return now
        if last - now > CLOCK_SLACK:
            raise LedgerError(
                f"{self.path}: the clock has gone backwards: it says {now:%Y-%m-%d %H:%M} UTC, but the last row is of "
                f"{last:%Y-%m-%d %H:%M} UTC; set this machine's clock, and see that the ledger is not another machine's"
            )
        return last

    def compose(self, content: Content) -> Content:
        """Return the next row with `content` in it, complete with its hash, without writing it. Raises LedgerError."""
        time = self.check_clock().isoformat(timespec="microseconds")
        row = {"sequence": self.chain.rows + 1, "time": time, "previous": self.chain.head, **content}
        return seal(row)

    def write(self, row: Content) -> None:
        """Append a composed row and make it durable. After an error the file is let go, to be read anew.

        Raises:
            LedgerError: the file was changed by others since it was read.
            StorageError: the row is not, or not for sure, on the disk.
        """
        line = to_line(row)
        try:
            if self._disk.size(self.path) != self.chain.size:
                raise LedgerError(f"{self.path}: was written to by something else while a worker held it; {ADVICE}")
            self._disk.append(self.path, line)
            self._disk.sync(self.path)
            chain = Chain(self.chain.rows + 1, str(row["hash"]), _time(row), self.chain.size + len(line))
            self._write_head(chain)
        except OSError as error:
            self.forget()
            self.let_go()
            raise _unwritable(self.path, error) from error
        except BaseException:
            self.forget()
            self.let_go()
            raise
        self.chain = chain
        self._known += line

    def _still_there(self, data: bytes, committed: tuple[int, str]) -> bool:
        """Tell whether the rows that were read before are there, unchanged and committed. Comparing bytes is cheap."""
        rows, head = committed
        agrees = rows > self.chain.rows or (rows, head) == (self.chain.rows, self.chain.head)
        return bool(self._known) and agrees and data.startswith(self._known)

    def _both(self) -> tuple[bytes | None, bytes | None]:
        """Read file and NAME.head as they were at one time, though a writer may be at work."""
        head_path = head_of(self.path)
        try:
            for _ in range(_ATTEMPTS):
                head = self._disk.read(head_path)
                data = self._disk.read(self.path)
                if self._disk.read(head_path) == head:
                    return data, head
        except OSError as error:
            raise LedgerError(
                f"{self.path}: cannot be read: {error.strerror or error}; see to its permissions"
            ) from error
        raise LedgerError(f"{self.path}: is being written to all the time; try again")

    def _mend(self) -> None:
        """Make the state that was read durable, and complete: its writer may have died before it was."""
        chain = self.chain
        if chain.torn:
            self._disk.truncate(self.path, chain.size)
        self._disk.sync(self.path)
        # The file's own name must be durable before NAME.head is: a NAME.head without its file is damage.
        self._disk.sync_folder(self.path.parent)
        if chain.ahead or not chain.rows:
            self._write_head(chain)

    def _write_head(self, chain: Chain) -> None:
        target = head_of(self.path)
        temporary = target.with_name(f"{target.name}.new")
        self._disk.write(temporary, f'{{"rows":{chain.rows},"head":"{chain.head}"}}\n'.encode())
        self._disk.sync(temporary)
        self._disk.rename(temporary, target)
        self._disk.sync_folder(target.parent)


def head_of(path: Path) -> Path:
    """Return the path of a journal's second file."""
    return path.with_name(f"{path.name}.head")


def damage(path: Path, line: int, reason: str) -> LedgerError:
    """Return the error for a line (1-based) that is not as it was written."""
    return LedgerError(f"{path}: line {line}: {reason}; {ADVICE}")


def _committed(path: Path, data: bytes | None, head: bytes | None) -> tuple[int, str]:
    """Return the number of rows and the last hash that NAME.head promises. Raises LedgerError."""
    name = head_of(path).name
    if head is None:
        if data:
            raise LedgerError(f"{path}: its {name} is missing, so whether rows were cut off is unknown; {ADVICE}")
        return 0, GENESIS
    if data is None:
        raise LedgerError(f"{path}: is missing, but its {name} is there; {ADVICE}")
    match = _HEAD.fullmatch(head)
    if match is None:
        raise LedgerError(f"{path.with_name(name)}: is not what a ledger writes there; {ADVICE}")
    return int(match[1]), match[2].decode()


def _follow(path: Path, data: bytes, committed: tuple[int, str], receive: Receive, chain: Chain) -> Chain:
    """Check every row after those of `chain`, and that they end where they should.

    Raises LedgerError naming the first wrong line.
    """
    promised, head = committed
    lines = data.split(b"\n")
    rest = lines.pop()
    last = chain.rows + len(lines)
    for number, line in enumerate(lines, chain.rows + 1):
        if number > promised + 1:
            raise damage(path, number, f"{head_of(path).name} knows of {promised} rows only")
        try:
            row = _parse(line)
        except NoRowError as error:
            if number > promised and number == last and not rest and b"\0" in line:
                rest = line + b"\n"  # parts of a row reached the disk, its end among them
                break
            raise damage(path, number, str(error)) from None
        chain = _next(path, chain, row, len(line) + 1)
        if number == promised and chain.head != head:
            raise damage(path, number, f"is not the last row that {head_of(path).name} names")
        receive(row)
    if chain.rows < promised:
        missing = promised - chain.rows
        raise damage(path, chain.rows + 1, f"is missing: the last {missing} of {promised} rows are cut off")
    if promised == 0 and head != GENESIS:
        raise LedgerError(f"{head_of(path)}: is not what a ledger writes there; {ADVICE}")
    if rest and chain.rows > promised:
        raise damage(path, chain.rows + 1, f"{head_of(path).name} knows of {promised} rows only")
    return Chain(chain.rows, chain.head, chain.time, chain.size, len(rest), chain.rows - promised)


def _next(path: Path, chain: Chain, row: Content, size: int) -> Chain:
    """Return the chain with one row more. Raises LedgerError where the row does not follow."""
    number = chain.rows + 1
    sequence, time = row.get("sequence"), _time(row)
    if sequence != number or isinstance(sequence, bool):
        raise damage(path, number, f"is row {sequence!r}: rows were dropped, moved or doubled")
    if row.get("previous") != chain.head:
        raise damage(path, number, "does not follow the row before it: one of the two was replaced")
    if time is None:
        raise damage(path, number, "time is not a time in UTC")
    if chain.time is not None and time < chain.time:
        raise damage(path, number, "is earlier than the row before it")
    return Chain(number, str(row["hash"]), time, chain.size + size)


def _parse(line: bytes) -> Content:
    """Return a row whose hash is right. Raises NoRowError."""
    if len(line) > LONGEST_ROW:
        raise NoRowError(f"has {len(line)} bytes, but a row has {LONGEST_ROW} at most")
    return unseal(line)


def _time(row: Content) -> datetime | None:
    """Return a row's time, None where it is not the text that `compose` writes."""
    text = row.get("time")
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    same = time is not None and time.tzinfo == UTC and time.isoformat(timespec="microseconds") == text
    return time if same else None


def _unwritable(path: Path, error: OSError) -> StorageError:
    reason = f"cannot be written: {error.strerror or error}"
    return StorageError(f"{path}: {reason}; free space, or see that its folder can be written to, and try again")
