"""What the clinic's audit log remembers of its ledger, so that an older ledger, or none, is not taken for the clinic's.

A ledger that is whole says nothing of the rows that came after the backup that it was restored from. So each charge,
and each release, is written into the audit log as well, with the hash of its row, before anything is computed or
leaves. A worker whose ledger lacks a row that the log remembers does not start; `melfed-client ledger continue` carries
over what the log knows of it. A ledger that is ahead of the log, as a crash leaves it, is caught up with.

Whoever restores both files from one backup is found only by a head that was kept elsewhere.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from melfed.client.ledger.ledger import VerifiedLedger, verify
from melfed.client.ledger.rows import LedgerRow
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, Row, read_log
from melfed.common.errors import LedgerError
from melfed.common.hash_chain import GENESIS

_MARKS = {Event.LEDGER_CHARGED.id, Event.LEDGER_RELEASED.id, Event.LEDGER_CONTINUED.id}
_TERMS = ("data", "run", "round", "purpose", "unit", "sampling_rate", "noise_multiplier", "steps", "delta")
"""Of a charge, under the same name in the log."""


class Witness:
    """Writes the charges of a ledger into the audit log, and holds the one against the other. Called with all rows."""

    def __init__(self, ledger: Path, audit: AuditLog) -> None:
        self.ledger, self.audit = ledger, audit
        self._seen, self._last = 0, GENESIS
        self._mutex = threading.Lock()

    def begin(self) -> None:
        """Check that the ledger has all that the log remembers, and write down what the log lacks.

        A damaged ledger is left alone: with that nothing is trained anyway.

        Raises:
            LedgerError: the ledger is older than the log, or missing.
            StorageError: the log cannot be read or written.
        """
        with self._mutex:
            self._begin()

    def __call__(self, rows: Sequence[LedgerRow]) -> None:
        """Write down what is new among all rows of the ledger. Raises as `begin`."""
        with self._mutex:
            if len(rows) < self._seen or (self._seen and rows[self._seen - 1].hash != self._last):
                self._begin()  # another ledger has taken its place
            for row in rows[self._seen :]:
                self._note(row)

    def _begin(self) -> None:
        marks = remembered(self.audit.path)
        check_against(self.ledger, marks)
        found = _verified(self.ledger)
        self._seen, self._last = 0, GENESIS
        if found is None:
            return
        known = {str(mark["head"]) for mark in marks}
        begin = _accounted(marks, found)
        for row in found.rows:
            self._note(row, write=row.sequence > begin and row.hash not in known)

    def _note(self, row: LedgerRow, *, write: bool = True) -> None:
        if write and row.status == "reserved":
            self.audit.record(Event.LEDGER_CHARGED, **_charge(row))
        elif write and row.status == "released":
            self.audit.record(Event.LEDGER_RELEASED, **_release(row))
        self._seen, self._last = self._seen + 1, row.hash


def remembered(audit: Path) -> tuple[Row, ...]:
    """Return the records of an audit log that are about the ledger; none where there is no log. Raises StorageError."""
    if not audit.exists():
        return ()
    return tuple(row for row in read_log(audit) if row.get("id") in _MARKS and isinstance(row.get("head"), str))


def check_against(ledger: Path, marks: Sequence[Row]) -> None:
    """Check that a ledger has all the rows that its audit log remembers.

    Raises:
        LedgerError: it has not, or is missing: says how to go on.
    """
    missing = lost(ledger, marks)
    if not missing:
        return
    charges = len(only(missing, Event.LEDGER_CHARGED))
    rows = f"{charges} charge{'' if charges == 1 else 's'}" if charges else "rows"
    what = "is older than this clinic's audit log" if ledger.exists() else "is missing, but not for the audit log"
    raise LedgerError(
        f"{ledger}: {what}, which knows of {rows} that are not in it; bring back its three files from the newest "
        "backup, or carry over what the log knows: melfed-client ledger continue --by NAME"
    )


def lost(ledger: Path, marks: Sequence[Row]) -> tuple[Row, ...]:
    """Return what an audit log remembers of a ledger and the ledger does not have; nothing where it is damaged."""
    if not ledger.exists():
        return tuple(marks)
    found = _verified(ledger)
    if found is None:
        return ()
    hashes, continued = _hashes(found), -1
    for index, mark in enumerate(marks):
        if mark["id"] == Event.LEDGER_CONTINUED.id and mark["head"] in hashes:
            continued = index
    return tuple(mark for mark in marks[continued + 1 :] if mark["head"] not in hashes)


def only(marks: Iterable[Row], event: Event) -> list[Row]:
    """Return the records of one event, each head once."""
    return list({str(mark["head"]): mark for mark in marks if mark["id"] == event.id}.values())


def terms_in(mark: Row) -> dict[str, object] | None:
    """Return the terms of a charge as the log has them; None in the log of an older version."""
    terms: dict[str, object] = {**{name: mark.get(name) for name in _TERMS}, "study": mark.get("digest")}
    return None if None in terms.values() else {**terms, "request": mark.get("request")}


def _charge(row: LedgerRow) -> dict[str, str | int | float | None]:
    fields = {name: getattr(row, name) for name in (*_TERMS, "request", "charge", "epsilon")}
    return {**fields, "digest": row.study, "head": row.hash}


def _release(row: LedgerRow) -> dict[str, str | int]:
    about = {name: getattr(row, name) for name in ("charge", "run", "round", "purpose")}
    return {**about, "digest": row.study, "head": row.hash}


def _verified(ledger: Path) -> VerifiedLedger | None:
    """Return a ledger that is whole; None where there is none, or a damaged one."""
    try:
        return verify(ledger)
    except LedgerError:
        return None


def _hashes(found: VerifiedLedger) -> set[str]:
    return {GENESIS, *(row.hash for row in found.rows), *(row.hash for row in found.changes)}


def _accounted(marks: Sequence[Row], found: VerifiedLedger) -> int:
    """Return the number of the row up to which `ledger continue` has accounted for all."""
    sequences = {row.hash: row.sequence for row in found.rows} | {row.hash: row.sequence for row in found.changes}
    ends = [sequences.get(str(mark["head"]), 0) for mark in marks if mark["id"] == Event.LEDGER_CONTINUED.id]
    return max(ends, default=0)
