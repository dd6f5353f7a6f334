"""What stands between a request and a clinic's patients: its policy, its ledger, and the replies it has paid for."""

import glob
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from melfed.client.approval.run_budget import limits
from melfed.client.config.policy import ClinicPolicy, budget, check_study, check_tensors_may_leave
from melfed.client.data.clinic_data import ClinicData, fingerprint
from melfed.client.ledger.key import ledger_key
from melfed.client.ledger.ledger import Charge, Ledger, Witness
from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.plan import PrivacyPlan, plan_of
from melfed.client.worker.reply_store import ReplyStore, keep_newest, reply_key
from melfed.common.errors import CancelledError, DeclinedError, StorageError
from melfed.common.study.protocol import StudyProtocol

Received = Mapping[str, npt.NDArray[np.generic]]
Arrays = Mapping[str, npt.NDArray[np.generic]]
Purpose = Literal["training", "moments", "evaluation", "subgroups", "baseline"]
Counts = tuple[int, ...]
_UNTOLD = (CancelledError, DeclinedError, StorageError)
"""What ends a computation for reasons that no patient has a part in: called off, forbidden, or the disk is full."""
KEPT = 4
"""Runs of which the last reply of each purpose is kept: a run that pauses while others go on finds its own again."""


@dataclass(frozen=True)
class Protection:
    """What protects a clinic's patients: a ledger and a policy.

    Attributes:
        ledger: the privacy ledger of its data.
        policy: what the clinic allows; None binds a study to nothing but its own ε (simulation).
        witness: remembers the ledger's rows elsewhere; None in a simulation.
    """

    ledger: Path
    policy: ClinicPolicy | None = None
    witness: Witness | None = None

    def key(self) -> bytes:
        """Return the ledger's secret key; see `melfed.client.ledger.key.ledger_key`."""
        return ledger_key(self.ledger)


@dataclass(frozen=True)
class Request:
    """Which work is asked for: the run's identity, the round (1-based), and the model that came."""

    run: str
    round: int
    tensors: Received


class Guard:
    """Lets one study work on one clinic's patients as far as policy and ledger allow."""

    def __init__(self, study: StudyProtocol, protection: Protection, data: ClinicData) -> None:
        self.study, self.protection, self.data = study, protection, data
        self._opened: Ledger | None = None
        self._paying = threading.Lock()

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the clinic's data: a ledger is of one data set. Raises LedgerError, StorageError."""
        return fingerprint(self.data, self.protection.key())

    @property
    def plan(self) -> PrivacyPlan:
        """The study's mechanisms. Raises StudyError as `melfed.client.privacy.plan.plan_of`."""
        return plan_of(self.study)

    def check(self, names: list[str]) -> None:
        """Check study and policy, before anything is computed; `names` are the tensors that would leave.

        Raises:
            DeclinedError: the policy forbids the study.
            LedgerError: the ledger is damaged or of other data.
        """
        if self.protection.policy is not None:
            check_study(self.protection.policy, self.study, smallest_noise(self.study))
            check_tensors_may_leave(self.protection.policy, names)
        if self.study.privacy is not None:
            self._ledger()

    def check_run(self, run: str) -> None:
        """Check, before anything is computed, that a run may begin or go on, and that this clinic can end it.

        Raises:
            DeclinedError: all approved runs of the study have begun, or too little ε is left (BudgetError).
            LedgerError: as `check`.
        """
        if self.protection.policy is not None and self.study.privacy is not None:
            self._ledger().check_run(self.study.digest, run, limits(self.protection.policy, self.study))

    def _ledger(self) -> Ledger:
        """Return the ledger as it is now; it is read as a whole once. Raises LedgerError, StorageError."""
        if self._opened is None:
            self._opened = Ledger.open(self.protection.ledger, self.fingerprint, witness=self.protection.witness)
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
            reservation = ledger.reserve(charge, limits(self.protection.policy, self.study))
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

        Moments are released once a run. They are kept until somebody deletes them
        (`melfed.client.worker.kept_moments`), to be given again to whoever asks, and once they are gone there are no
        others.

        Raises:
            DeclinedError: the budget does not allow it (says how much is left), or the run's moments were deleted.
            LedgerError: the ledger is damaged or of other data.
        """
        plan = self.plan
        mechanism: Mechanism | None = getattr(plan, purpose)
        if mechanism is None:
            raise DeclinedError(f"study {self.study.name} has no {purpose} to pay for")
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
            if purpose == "moments" and ledger.released(charge):
                raise DeclinedError("this run's moments were released once and deleted; they are not released again")
            reservation = ledger.reserve(charge, limits(self.protection.policy, self.study))
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
            store.save(key, result, {"run": request.run} if purpose == "moments" else {})
            ledger.mark(reservation, "released")
            if purpose != "moments":
                keep_newest(store.path.parent.glob(self._stores(purpose)), KEPT)
            return result

    def _store(self, purpose: Purpose, run: str) -> ReplyStore:
        """Return where the last reply to a run of this study is kept."""
        name = hashlib.sha256(f"{self.study.digest} {run}".encode()).hexdigest()[:16]
        return ReplyStore(self.protection.ledger.with_suffix(f".{purpose}-{name}.safetensors"))

    def _stores(self, purpose: Purpose) -> str:
        """Return the pattern of the names of all such files; no other clinic's ledger beside it has such."""
        return f"{glob.escape(self.protection.ledger.stem)}.{purpose}-{'[0-9a-f]' * 16}.safetensors"

    def account(self) -> tuple[float, str]:
        """Return the ledger's total ε at the study's delta (infinite without noise), and the hash of its last row."""
        ledger = self._ledger()
        return ledger.epsilon(self.plan.privacy.delta), ledger.head

    def left(self) -> float | None:
        """Return the ε that the policy leaves to this clinic's data; None without a policy."""
        if self.protection.policy is None:
            return None
        limit = budget(self.protection.policy, self.study)
        spent = self._ledger().epsilon(limit.delta)
        return max(self.protection.policy.epsilon - spent, 0.0)


def smallest_noise(study: StudyProtocol) -> float:
    """Return the smallest σ that a study is run with, of whatever is released; 0 without privacy.

    Raises:
        StudyError: as `melfed.client.privacy.plan.plan_of`.
    """
    if study.privacy is None:
        return 0.0
    plan = plan_of(study)
    released = (plan.training, plan.moments, plan.evaluation, plan.subgroups, plan.counts)
    return min(mechanism.noise_multiplier for mechanism in released if mechanism is not None)
