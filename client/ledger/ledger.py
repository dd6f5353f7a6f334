"""A clinic's privacy ledger: what has been asked of its patients, in all runs and studies, and what that cost them.

The file is a journal (`melfed.client.ledger.journal`: JSON lines, hash-chained, fsynced). A charge is one mechanism
applied to the clinic's data, and has up to three rows with the same terms: `reserved` before anything is computed,
`spent` when the computation has ended, `released` before its result leaves the clinic. Whoever takes the rows of any
one status has every charge that came so far once. Cost comes with `reserved` and never goes away. So a crash, at
whatever point, leaves a ledger that counts all that has left, or more.

A reservation that was never released is taken up again by the same charge without new cost: nothing of it has left. It
is released once; the same charge after that is a new one, with a new cost.

One worker spends at a time: `reserve` locks the file, and the lock is held until all reservations of this `Ledger` are
released, it is closed, or its process ends. Were it given back in between, a second worker could take up a reservation
that the first is still computing. Another `reserve` waits for `wait` seconds, then raises LedgerError.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from melfed.client.ledger.budget import Budget, Charged, check_charge, check_run, mechanism_of
from melfed.client.ledger.disk import Disk
from melfed.client.ledger.journal import ADVICE, Clock, Journal
from melfed.client.ledger.rows import (
    Book,
    ChargeStatus,
    ChargeTerms,
    DataRow,
    LedgerRow,
    Purpose,
    agreed,
    first_problem,
)
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import DeclinedError, LedgerError, StorageError
from melfed.common.hash_chain import GENESIS, Content

CONTINUE = "`melfed-client ledger continue --by NAME`, after which all that was spent before still counts"
"""What to do where a clinic's images or patients have changed on purpose."""


Witness = Callable[[Sequence[LedgerRow]], None]
"""Remembers elsewhere what a ledger's rows are: `melfed.client.ledger.witness`."""


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Charge:
    """One mechanism that a study asks a clinic to apply to its data.

    Attributes:
        study: digest of the study protocol, 64 hexadecimal digits.
        run: identity of the run, at most 200 characters.
        round: 0 or more.
        unit: whom the mechanism protects: patient, lesion or image.
        delta: the δ at which the study counts.
        request: digest of the question that is answered, 64 hexadecimal digits; None: the charge is of no one question.
    """

    study: str
    run: str
    round: int
    purpose: Purpose
    unit: str
    mechanism: Mechanism
    delta: float
    request: str | None = None


@dataclass(frozen=True)
class Reservation:
    """A charge that is on disk: its number in the ledger (from 1)."""

    number: int
    charge: Charge


class Ledger:
    """A clinic's ledger, for one data set. A context manager: leaving it closes it, and it can be used again.

    What it has read it reads no second time: `melfed.client.ledger.journal.Journal.read`.
    """

    def __init__(
        self, path: Path, fingerprint: str, disk: Disk, clock: Clock, wait: float, witness: Witness | None = None
    ) -> None:
        self.path, self.fingerprint, self._wait, self._witness = path, fingerprint, wait, witness
        self._journal = Journal(path, disk, clock)
        self._book = Book(path)
        self._open: set[int] = set()
        self._mutex = threading.RLock()

    @classmethod
    def open(
        cls,
        path: Path,
        fingerprint: str,
        *,
        wait: float = 10.0,
        disk: Disk | None = None,
        clock: Clock = utc_now,
        witness: Witness | None = None,
    ) -> Self:
        """Read a ledger and check all of it. Where there is none, it is empty, and its folder is made (0700).

        Args:
            path: the ledger.
            fingerprint: of the clinic's data set, 64 hexadecimal digits.
            wait: seconds that `reserve` waits for a worker that is spending.
            disk: the real one.
            clock: time in UTC.
            witness: is given all rows before a charge is reserved, when it is, and before a result leaves; what it
                raises stops that.

        Raises:
            LedgerError: the ledger is damaged or of other data, or the clock has gone backwards by more than a day.
            StorageError: its folder cannot be made.
        """
        disk = disk or Disk()
        try:
            disk.make_folder(path.parent)
        except OSError as error:
            reason = f"{path.parent}: cannot be made: {error.strerror or error}"
            raise StorageError(f"{reason}; see that the folder above it can be written to") from error
        ledger = cls(path, fingerprint, disk, clock, wait, witness)
        ledger._read()
        ledger._journal.check_clock()
        return ledger

    def refresh(self) -> None:
        """Read what others have written since. Raises LedgerError as `open`."""
        with self._mutex:
            # While it is held, nobody else writes.
            if not self._journal.held:
                self._read()
            self._journal.check_clock()

    @property
    def rows(self) -> tuple[LedgerRow, ...]:
        """All rows, as of when this object last read or wrote the file."""
        return tuple(self._book.rows)

    @property
    def head(self) -> str:
        """Hash of the last row, 64 zeros without one."""
        return self._journal.chain.head

    def epsilon(self, delta: float) -> float:
        """Return the total ε at a δ of all that was ever reserved; infinite where a charge had no noise."""
        return accounting.epsilon(self._book.history, delta)

    def charged(self, study: str) -> Charged:
        """Return the reserved rows of a study, by the run."""
        return self._book.charged.get(study, {})

    def check_run(self, study: str, run: str, budget: Budget) -> None:
        """Check that a run may begin or go on, and that all that it will still ask fits.

        Raises:
            DeclinedError: all approved runs of the study have begun, or too little is left (BudgetError).
        """
        with self._mutex:
            check_run(self._book.history, self.charged(study), run, budget)

    def reserve(self, charge: Charge, budget: Budget) -> Reservation:
        """Write down a charge before anything is computed for it; on return it is durable.

        A reservation of the same charge that was never released is taken again.

        Raises:
            DeclinedError: the total would exceed the budget (BudgetError, whose figures say how much is left), the
                charge would begin a run too many or one that cannot end, or it cannot be written.
            LedgerError: as `open`; or another worker is spending.
            StorageError: the row could not be written.
        """
        with self._turn():
            self._tell()
            terms = self._terms(charge)
            number = self._book.unreleased.get(agreed(terms))
            again = number is not None
            check_charge(self._book.history, self.charged(charge.study), terms, budget, again=again)
            if number is None:
                number = len(self._book.latest) + 1
                self._append(terms, number, "reserved")
            self._tell()
            self._open.add(number)
            return Reservation(number, charge)

    def values(self, charge: Charge) -> tuple[int, ...] | None:
        """Return the noised counts that were released for a charge's study and run on these data, None before that."""
        return self._book.counts.get((self.fingerprint, charge.study, charge.run))

    def released(self, charge: Charge) -> bool:
        """Tell whether the result of this very charge was released."""
        terms = agreed(self._terms(charge))
        return any(row.status == "released" and agreed(row) == terms for row in self._book.rows)

    def mark(
        self,
        reservation: Reservation,
        status: Literal["spent", "released"],
        values: tuple[int, ...] | None = None,
    ) -> None:
        """Write down that a reservation's computation has ended, or that its result is about to leave.

        `spent` for a reservation that was taken again after it had been spent writes nothing.

        Args:
            reservation: held by this ledger.
            status: what has happened.
            values: the noised counts that leave, for the purpose "counts" when they are released: `values` repeats
                them.

        Raises:
            LedgerError: the reservation is not this ledger's any more (released, closed, or lost by an error), or it is
                to be released before it is spent. Nothing may leave.
            StorageError: the row could not be written. The reservation is given up: nothing may leave.
        """
        with self._mutex:
            number = reservation.number
            if number not in self._open:
                raise LedgerError(f"{self.path}: charge {number} is not held by this worker; reserve it again")
            with self._turn():
                latest = self._book.latest[number - 1]
                if status == "released" and latest.status != "spent":
                    raise LedgerError(f"{self.path}: charge {number} is to be released, but was never marked as spent")
                if status != latest.status:
                    self._append(latest, number, status, values)
                if status == "released":
                    self._open.discard(number)
                    self._tell()

    def settle(self, charge: Charge) -> None:
        """Write down that the result of a charge leaves, unless that was written before.

        For a result that was kept after `mark(..., "spent")` and is sent (again) without computing it anew: the worker
        may have died before `mark(..., "released")`, and what stays unreleased can be taken again without cost.

        Raises:
            LedgerError: as `open`; or another worker is spending. Nothing may leave.
            StorageError: the row could not be written. Nothing may leave.
        """
        with self._turn():
            terms = self._terms(charge)
            number = self._book.unreleased.get(agreed(terms))
            if number is not None and self._book.latest[number - 1].status == "spent":
                self._append(terms, number, "released")
                self._open.discard(number)
            self._tell()

    def close(self) -> None:
        """Give up all reservations that are not released, and let other workers spend."""
        with self._mutex:
            self._open.clear()
            self._journal.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the file for one operation, and on for as long as reservations are open."""
        with self._mutex:
            if not self._journal.held:
                self._read(hold=True)
            try:
                yield
            finally:
                if not self._journal.held:
                    self._open.clear()
                if not self._open:
                    self._journal.let_go()

    def _read(self, hold: bool = False) -> None:
        if hold:
            self._journal.hold(self._wait, self._take, self._restart)
        else:
            self._journal.read(self._take, self._restart)
        found = self._book.data or self.fingerprint
        if found != self.fingerprint:
            self._journal.let_go()
            raise LedgerError(
                f"{self.path}: is the ledger of data {found[:12]}, but the clinic's data are {self.fingerprint[:12]}; "
                f"bring back the data that it is of, or, if they were changed on purpose, {CONTINUE}"
            )

    def _take(self, row: Content) -> None:
        self._book.add(row)

    def _restart(self) -> None:
        self._book = Book(self.path)

    def _append(
        self, terms: ChargeTerms, number: int, status: ChargeStatus, values: tuple[int, ...] | None = None
    ) -> None:
        row = composed(self._journal, self._book, terms, number, status, values)
        self._book.add(row)
        self._journal.write(row)

    def _tell(self) -> None:
        if self._witness is not None:
            self._witness(self._book.rows)

    def _terms(self, charge: Charge) -> ChargeTerms:
        mechanism = charge.mechanism
        if not charge.run.isprintable():  # in the rows of older versions such a run may stand
            raise DeclinedError("the charge does not fit a privacy ledger: run: has characters that cannot be printed")
        try:
            return ChargeTerms(
                data=self.fingerprint,
                study=charge.study,
                run=charge.run,
                round=charge.round,
                purpose=charge.purpose,
                unit=charge.unit,  # type: ignore[arg-type]  # that is what is checked here
                sampling_rate=float(mechanism.sampling_rate),
                noise_multiplier=float(mechanism.noise_multiplier),
                steps=mechanism.steps,
                delta=float(charge.delta),
                request=charge.request,
            )
        except ValidationError as error:
            raise DeclinedError(f"the charge does not fit a privacy ledger: {first_problem(error)}") from None


@dataclass(frozen=True)
class VerifiedLedger:
    """A ledger that is whole.

    Attributes:
        rows: its charges' rows.
        head: hash of the last row.
        mendable: what a crash has left that the next worker will mend.
        changes: where the ledger goes on with other data.
        data: fingerprint of the data that it is of now; None where it is empty.
    """

    rows: tuple[LedgerRow, ...]
    head: str
    mendable: str | None
    changes: tuple[DataRow, ...]
    data: str | None


def verify(path: Path, head: str | None = None) -> VerifiedLedger:
    """Check a ledger from its first row to its last; nothing is written.

    Args:
        path: the ledger.
        head: hash of a row that it must have, as was kept elsewhere.

    Raises:
        LedgerError: there is no ledger; a row was edited, dropped, moved, doubled or cut off (names the first wrong
            line); or no row has the hash `head`.

    >>> from tempfile import TemporaryDirectory
    >>> step, nobody = Mechanism(sampling_rate=1.0, noise_multiplier=5.0, steps=1), "0" * 64
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "ledger.jsonl")
    ...     with Ledger.open(path, fingerprint=nobody) as ledger:
    ...         charge = Charge(nobody, "run", 1, "training", "patient", step, delta=1e-5)
    ...         reservation = ledger.reserve(charge, Budget(epsilon=3.0, delta=1e-5))
    ...     rows = verify(path).rows
    ...
    >>> [(row.status, row.purpose, round(row.epsilon, 2)) for row in rows]
    [('reserved', 'training', 0.73)]
    """
    book = Book(path)
    journal = Journal(path, Disk(), utc_now)
    journal.read(book.add)
    if not path.exists():
        raise LedgerError(f"{path}: there is no ledger")
    hashes = {GENESIS, *(row.hash for row in book.rows), *(row.hash for row in book.changes)}
    if head is not None and head not in hashes:
        raise LedgerError(f"{path}: no row has the hash {head}: rows were replaced or cut off; {ADVICE}")
    mendable = None
    if journal.chain.torn:
        mendable = f"a crash has left {journal.chain.torn} bytes of a row that was not finished"
    elif journal.chain.ahead:
        mendable = "a crash has left its last row out of its .head"
    return VerifiedLedger(tuple(book.rows), journal.chain.head, mendable, tuple(book.changes), book.data)


def composed(
    journal: Journal,
    book: Book,
    terms: ChargeTerms,
    number: int,
    status: ChargeStatus,
    values: tuple[int, ...] | None = None,
) -> Content:
    """Return the next row of a ledger, complete, without writing it. Raises LedgerError where the clock is wrong."""
    new = [mechanism_of(terms)] if status == "reserved" else []
    total = accounting.epsilon([*book.history, *new], terms.delta)
    fields = {name: getattr(terms, name) for name in ChargeTerms.model_fields}
    optional = {"request": fields.pop("request"), "values": None if values is None else list(values)}
    delta = fields.pop("delta")
    epsilon = total if math.isfinite(total) else None
    content = {"charge": number, **fields, "status": status, "epsilon": epsilon, "delta": delta}
    # Without what is absent, a row is what older versions wrote.
    return journal.compose(content | {name: value for name, value in optional.items() if value is not None})


def continue_with(path: Path, fingerprint: str, by: str, *, wait: float = 10.0) -> bool:
    """Let a ledger go on with data that have changed; False where it is of these, or of none yet.

    Nothing is reset: whoever is in both data sets was charged in both, and whoever came anew counts as if charged
    before. So a budget never grows by a change of the data.

    Args:
        path: the ledger.
        fingerprint: of the data as they are now.
        by: who decided it; 1 to 200 printable characters.
        wait: seconds to wait for a worker that is spending.

    Raises:
        LedgerError: there is none, it is damaged, or a worker is spending.
        StorageError: it cannot be written.
    """
    if not path.exists():
        raise LedgerError(f"{path}: there is no ledger yet; it begins with the first charge")
    book, journal = Book(path), Journal(path, Disk(), utc_now)
    journal.hold(wait, book.add)
    try:
        if book.data in (None, fingerprint):
            return False
        row = journal.compose({"status": "continued", "data": fingerprint, "by": by})
        book.add(row)
        journal.write(row)
        return True
    finally:
        journal.let_go()
