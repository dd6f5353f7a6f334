"""What stands between a request and a clinic's patients: its policy, its ledger, and the replies it has paid for."""

import contextlib
import glob
import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from client.dataset import ClinicData, fingerprint
from client.policy import (
    ClinicPolicy,
    budget,
    check_study,
    check_tensors_may_leave,
)
from client.privacy.ledger import Charge, Ledger
from client.privacy.plan import PrivacyPlan, plan_of
from client.replies import ReplyStore, keep_newest, reply_key
from common.errors import CancelledError, DeclinedError, LedgerError, StorageError
from common.files import atomic_write
from common.protocol import StudyProtocol

Received = Mapping[str, npt.NDArray[np.generic]]
Arrays = Mapping[str, npt.NDArray[np.generic]]
Purpose = Literal["training", "evaluation"]
Counts = tuple[int, ...]
KEY_BYTES = 32
_UNTOLD = (CancelledError, DeclinedError, StorageError)
"""What ends a computation for reasons that no patient has a part in: called off, forbidden, or the disk is full."""
KEPT = 4
"""Runs of which the last reply of each purpose is kept: a run that pauses while others go on finds its own again."""


@dataclass(frozen=True)
class Safe:
    """Where a clinic keeps what protects its patients.

    Attributes:
        ledger: the privacy ledger of its data.
        policy: what the clinic allows; None binds a study to nothing but its own ε (simulation).
    """

    ledger: Path
    policy: ClinicPolicy | None = None

    def key(self) -> bytes:
        """Return the clinic's secret key of its ledger, 32 bytes beside it; made where there is no ledger yet.

        Raises:
            LedgerError: there is a ledger, but its key is missing or cut short.
            StorageError: the key cannot be written.
        """
        path = self.ledger.with_suffix(".key")
        if not path.exists():
            if self.ledger.exists():
                raise LedgerError(f"{path}: is missing, but there is a ledger; bring it back from the backup")
            _make_key(path)
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise LedgerError(f"{path}: has {len(key)} bytes instead of {KEY_BYTES}; bring it back from the backup")
        return key


def _make_key(path: Path) -> None:
    """Write a new key, unless another worker does so at the same time: then that one counts."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(fresh) as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


@dataclass(frozen=True)
class Request:
    """Which work is asked for: the run's identity, the round (1-based), and the model that came."""

    run: str
    round: int
    tensors: Received


class Guard:
    """Lets one study work on one clinic's patients as far as policy and ledger allow."""

    def __init__(self, study: StudyProtocol, safe: Safe, data: ClinicData) -> None:
        self.study, self.safe, self.data = study, safe, data
        self._opened: Ledger | None = None
        self._paying = threading.Lock()

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the clinic's data: a ledger is of one data set. Raises LedgerError, StorageError."""
        return fingerprint(self.data, self.safe.key())

    @property
    def plan(self) -> PrivacyPlan:
        """The study's mechanisms. Raises StudyError as `client.privacy.plan.plan_of`."""
        return plan_of(self.study)

    def check(self, names: list[str]) -> None:
        """Check study and policy, before anything is computed; `names` are the tensors that would leave.

        Raises:
            DeclinedError: the policy forbids the study.
            LedgerError: the ledger is damaged or of other data.
        """
        if self.safe.policy is not None:
            check_study(self.safe.policy, self.study, smallest_noise(self.study))
            check_tensors_may_leave(self.safe.policy, names)
        if self.study.privacy is not None:
            self._ledger()

    def _ledger(self) -> Ledger:
        """Return the ledger as it is now; it is read as a whole once. Raises LedgerError, StorageError."""
        if self._opened is None:
            self._opened = Ledger.open(self.safe.ledger, self.fingerprint)
        else:
            self._opened.refresh()
        return self._opened

    def counts(self, run: str, compute: Callable[[], Counts]) -> Counts:
        """Return a run's noised counts: made and charged when it asks for the first time, and the same ever after.

        They are kept in the ledger itself, so that whatever happens to other files, asking again tells nothing new.

        Args:
            run: its identity.
            compute: returns them with noise of `plan.counts`.

        Raises:
            DeclinedError: the budget does not allow it; says how much is left.
            LedgerError: the ledger is damaged or of other data.
        """
        privacy = self.plan.privacy
        charge = Charge(self.study.digest, run, 0, "counts", privacy.unit, self.plan.counts, privacy.delta)
        with self._paying, self._ledger() as ledger:
            if (told := ledger.values(charge)) is not None:
                return told
            reservation = ledger.reserve(charge, budget(self.safe.policy, self.study))
            values = compute()
            ledger.mark(reservation, "spent")
            ledger.mark(reservation, "released", values)
            return values

    def pay(self, purpose: Purpose, request: Request, compute: Callable[[], Arrays]) -> Arrays:
        """Reserve the cost, compute, and let the result go; a result that was paid for already is given again.

        The order is what makes a crash harmless: the reservation is on disk before any patient is looked at, and the
        result is kept before it is written down as released. A crash between the two leaves a reservation that the same
        request takes up again, since nothing has left; a crash afterwards leaves a result to be sent again. An error of
        the computation is a result too, and paid for; a computation that was called off is none, and its reservation
        is that of its request alone: another model is another question, and another charge.

        Raises:
            DeclinedError: the budget does not allow it; says how much is left.
            LedgerError: the ledger is damaged or of other data.
        """
        plan = self.plan
        mechanism = plan.training if purpose == "training" else plan.evaluation
        if mechanism is None:
            raise DeclinedError(f"study {self.study.name} has no evaluation to pay for")
        privacy = plan.privacy
        store = self._store(purpose, request.run)
        # With the data's fingerprint: what was learnt from others is no answer to the same question.
        run = f"{self.fingerprint} {request.run}"
        key = reply_key(self.study.digest, run, request.round, purpose, request.tensors)
        charge = Charge(
            self.study.digest, request.run, request.round, purpose, privacy.unit, mechanism, privacy.delta, key
        )
        # One at a time: two that took up the same reservation would both compute for one price.
        with self._paying, self._ledger() as ledger:
            kept = store.find(key)
            if kept is not None:
                ledger.settle(charge)
                return kept[0]
            reservation = ledger.reserve(charge, budget(self.safe.policy, self.study))
            try:
                result = compute()
            except _UNTOLD:
                raise
            except Exception:
                # That it failed may hang on the patients, and whoever asked learns of it: so it is paid for, as often
                # as it happens.
                ledger.mark(reservation, "spent")
                ledger.mark(reservation, "released")
                raise
            ledger.mark(reservation, "spent")
            store.save(key, result, {})
            ledger.mark(reservation, "released")
            keep_newest(store.path.parent.glob(self._stores(purpose)), KEPT)
            return result

    def _store(self, purpose: Purpose, run: str) -> ReplyStore:
        """Return where the last reply to a run of this study is kept."""
        name = hashlib.sha256(f"{self.study.digest} {run}".encode()).hexdigest()[:16]
        return ReplyStore(self.safe.ledger.with_suffix(f".{purpose}-{name}.safetensors"))

    def _stores(self, purpose: Purpose) -> str:
        """Return the pattern of the names of all such files; no other clinic's ledger beside it has such."""
        return f"{glob.escape(self.safe.ledger.stem)}.{purpose}-{'[0-9a-f]' * 16}.safetensors"

    def account(self) -> tuple[float, str]:
        """Return the ledger's total ε at the study's delta (infinite without noise), and the hash of its last row."""
        ledger = self._ledger()
        return ledger.epsilon(self.plan.privacy.delta), ledger.head

    def left(self) -> float | None:
        """Return the ε that the policy leaves to this clinic's data; None without a policy."""
        if self.safe.policy is None:
            return None
        limit = budget(self.safe.policy, self.study)
        spent = self._ledger().epsilon(limit.delta)
        return max(self.safe.policy.epsilon - spent, 0.0)


def smallest_noise(study: StudyProtocol) -> float:
    """Return the smallest σ that a study is run with, training and evaluation alike; 0 without privacy.

    Raises:
        StudyError: as `client.privacy.plan.plan_of`.
    """
    if study.privacy is None:
        return 0.0
    plan = plan_of(study)
    released = (plan.training, plan.evaluation, plan.counts)
    return min(mechanism.noise_multiplier for mechanism in released if mechanism is not None)
