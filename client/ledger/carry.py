"""Carrying over into the ledger what the audit log remembers of charges that the ledger lacks.

Each charge counts from then on as before. All are closed: nobody knows what became of their results, so none is taken
up again without cost.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from melfed.client.ledger.disk import Disk
from melfed.client.ledger.journal import Journal, head_of
from melfed.client.ledger.ledger import composed, utc_now
from melfed.client.ledger.rows import Book, ChargeStatus, ChargeTerms, first_problem
from melfed.client.ledger.witness import lost, only, remembered, terms_in
from melfed.common.audit.events import Event
from melfed.common.audit.log import Row
from melfed.common.errors import LedgerError, StorageError

LOST = ".lost"
"""Suffix of the .head of a ledger that is missing."""


def carry_over(ledger: Path, audit: Path, by: str, *, wait: float = 10.0) -> int | None:
    """Write into a ledger what its audit log knows and it lacks; return how many charges, None where it lacks nothing.

    Args:
        ledger: the clinic's; made where it is missing.
        audit: its audit log.
        by: who decided it; 1 to 200 printable characters.
        wait: seconds to wait for a worker that is spending.

    Raises:
        LedgerError: the log does not know all of what is missing, the ledger is damaged, or a worker is spending.
        StorageError: a file cannot be read or written.
    """
    missing = lost(ledger, remembered(audit))
    if not missing:
        return None
    charges = only(missing, Event.LEDGER_CHARGED)
    terms = [_terms(ledger, mark) for mark in charges]
    book, journal = Book(ledger), Journal(ledger, Disk(), utc_now)
    if not ledger.exists():
        _complete(ledger, 0, charges)
        _set_aside(head_of(ledger))
    journal.hold(wait, book.add)
    try:
        _complete(ledger, len(book.latest), charges)
        writer = _Writer(book, journal, by)
        for mark in only(missing, Event.LEDGER_RELEASED):
            writer.close(mark)
        for charge in terms:
            writer.charge(charge)
    finally:
        journal.let_go()
    return len(terms)


class _Writer:
    def __init__(self, book: Book, journal: Journal, by: str) -> None:
        self.book, self.journal, self.by = book, journal, by

    def charge(self, terms: ChargeTerms) -> None:
        """Write a charge with all its rows."""
        if self.book.data not in (None, terms.data):
            self._write(self.journal.compose({"status": "continued", "data": terms.data, "by": self.by}))
        number = len(self.book.latest) + 1
        statuses: tuple[ChargeStatus, ...] = ("reserved", "spent", "released")
        for status in statuses:
            self._write(composed(self.journal, self.book, terms, number, status))

    def close(self, mark: Row) -> None:
        """Write that the result of a charge has left that the ledger has as one that nobody has seen."""
        number = mark.get("charge")
        rows = self.book.latest
        found = rows[number - 1] if isinstance(number, int) and 0 < number <= len(rows) else None
        same = found is not None and [found.study, found.run, found.round, found.purpose] == [
            mark.get(name) for name in ("digest", "run", "round", "purpose")
        ]
        if found is None or not same or found.data != self.book.data:
            return  # of a charge that is missing itself, or of data that have changed: nobody takes it up
        following: dict[ChargeStatus, tuple[ChargeStatus, ...]] = {
            "reserved": ("spent", "released"),
            "spent": ("released",),
        }
        for status in following.get(found.status, ()):
            self._write(composed(self.journal, self.book, found, found.charge, status))

    def _write(self, row: dict[str, object]) -> None:
        self.book.add(row)
        self.journal.write(row)


def _terms(ledger: Path, mark: Row) -> ChargeTerms:
    known = terms_in(mark)
    if known is None:
        raise LedgerError(
            f"{ledger}: the audit log knows that something was charged on {str(mark.get('time'))[:10]}, but not what: "
            "an older version wrote that; bring back a newer backup of the ledger's three files"
        )
    try:
        return ChargeTerms.model_validate(known)
    except ValidationError as error:
        raise LedgerError(f"{ledger}: the audit log has a charge that is none: {first_problem(error)}") from None


def _complete(ledger: Path, has: int, charges: Sequence[Row]) -> None:
    """Raise LedgerError where a charge is missing that the log does not know either, by the charges' numbers."""
    for mark in charges:
        number = mark.get("charge")
        if not isinstance(number, int) or number > has + 1:
            raise LedgerError(
                f"{ledger}: charge {has + 1} is neither in it nor in the audit log; bring back a newer backup of its "
                "three files"
            )
        has = max(has, number)


def _set_aside(head: Path) -> None:
    try:
        if head.exists():
            head.rename(head.with_name(f"{head.name}{LOST}"))
    except OSError as error:
        raise StorageError(f"{head}: cannot be set aside: {error.strerror or error}") from error
