"""What each study may cost this clinic and has cost it: runs and ε, allowed, begun, spent and left.

Read from policy, approvals and ledger as they are now; the worker decides by the very same
(`melfed.client.ledger.budget`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from melfed.client.approval.approvals import Approval, approved, approved_study
from melfed.client.approval.run_budget import limits, stated_epsilon, terms_of
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.policy import ClinicPolicy
from melfed.client.ledger.budget import check_run, mechanism_of, remaining
from melfed.client.ledger.ledger import VerifiedLedger, verify
from melfed.client.ledger.rows import LedgerRow
from melfed.client.privacy import accounting
from melfed.common.errors import BudgetError, StudyError
from melfed.common.study.protocol import StudyProtocol


@dataclass(frozen=True)
class StudyAccount:
    """One study's.

    Attributes:
        digest: of the study.
        study: its name; None where only the digest is known.
        runs: how many are allowed.
        begun: how many have been charged.
        epsilon: allowed over all of them; None where it cannot be told without the study, or nothing bounds it.
        spent: ε of all charges of the study, at `delta`; infinite without noise.
        delta: the study's; None where no charge has told it.
    """

    digest: str
    study: str | None
    runs: int
    begun: int
    epsilon: float | None
    spent: float
    delta: float | None

    @property
    def left(self) -> float | None:
        """ε that is left of what is allowed, at least 0; None where that is not known."""
        return None if self.epsilon is None else max(self.epsilon - self.spent, 0.0)

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "digest": self.digest,
            "study": self.study,
            "runs": {"allowed": self.runs, "begun": self.begun, "left": max(self.runs - self.begun, 0)},
            "epsilon": {
                "allowed": self.epsilon,
                "spent": self.spent if math.isfinite(self.spent) else None,
                "left": self.left,
                "delta": self.delta,
            },
        }

    def __str__(self) -> str:
        """Return it in words."""
        runs = f"{self.begun} of {self.runs} run{'' if self.runs == 1 else 's'} begun"
        spent = f"{self.spent:.4g}" if math.isfinite(self.spent) else "unbounded"
        if self.epsilon is None:
            return f"{runs}; ε {spent} spent"
        at = "" if self.delta is None else f" at δ = {self.delta:g}"
        return f"{runs}; ε {spent} of {self.epsilon:.4g} spent, {self.left:.4g} left{at}"


def ledger_of(config: ClinicConfig) -> VerifiedLedger | None:
    """Return the clinic's ledger; None where there is none yet. Raises LedgerError, PermissionError."""
    # Unlike `exists`, this raises where the folder may not be entered.
    names = {entry.name for entry in config.worker_state.iterdir()} if config.worker_state.is_dir() else set()
    path = config.ledger
    return verify(path) if names & {path.name, f"{path.name}.head"} else None


def accounts(config: ClinicConfig, policy: ClinicPolicy, rows: Sequence[LedgerRow]) -> tuple[StudyAccount, ...]:
    """Return the accounts of all studies that are approved, or have been charged; the approved first.

    Args:
        config: the clinic's.
        policy: as it stands now (`effective_policy`).
        rows: the ledger's.

    Raises:
        PolicyError: an approval cannot be read.
    """
    charged = by_study(rows)
    approvals = {approval.digest: approval for approval in approved(config)}
    listed = () if policy.studies == "any" else policy.studies
    digests = dict.fromkeys((*approvals, *listed, *charged))
    return tuple(_account(config, policy, digest, approvals.get(digest), charged.get(digest, {})) for digest in digests)


def by_study(rows: Sequence[LedgerRow]) -> dict[str, dict[str, list[LedgerRow]]]:
    """Return the reserved rows by study and run."""
    found: dict[str, dict[str, list[LedgerRow]]] = {}
    for row in rows:
        if row.status == "reserved":
            found.setdefault(row.study, {}).setdefault(row.run, []).append(row)
    return found


def _account(
    config: ClinicConfig,
    policy: ClinicPolicy,
    digest: str,
    approval: Approval | None,
    charged: Mapping[str, Sequence[LedgerRow]],
) -> StudyAccount:
    terms, rows = terms_of(policy, digest), [row for run in charged.values() for row in run]
    allowed, study = terms.epsilon, None
    if approval is not None and allowed is None:
        study = _study(config, digest)
        allowed = stated_epsilon(study, terms.runs) if study else None
    delta = rows[-1].delta if rows else study.privacy.delta if study and study.privacy else None
    spent = accounting.epsilon([mechanism_of(row) for row in rows], delta) if rows and delta else 0.0
    name = approval.study if approval is not None else None
    allows = policy.studies == "any" or digest in policy.studies
    return StudyAccount(digest, name, terms.runs if allows else 0, len(charged), allowed, spent, delta)


def _study(config: ClinicConfig, digest: str) -> StudyProtocol | None:
    try:
        return approved_study(config, digest)
    except StudyError:
        return None


def allowed_lines(policy: ClinicPolicy, study: StudyProtocol, rows: Sequence[LedgerRow]) -> list[tuple[str, str]]:
    """Return, as headings and texts, what a private study may cost by its approval, and what of that is left here.

    Raises:
        StudyError: no noise is enough for the study's ε.
    """
    if study.privacy is None:
        return [("runs", "as many as are asked for: without a privacy section no ε is counted")]
    budget = limits(policy, study)
    assert budget.study is not None  # noqa: S101 (a policy has been given)
    charged = by_study(rows).get(study.digest, {})
    history = [mechanism_of(row) for row in rows if row.status == "reserved"]
    of_study = [mechanism_of(row) for run in charged.values() for row in run]
    whole = remaining(budget.plan, ())
    spent, total = (accounting.epsilon(charges, policy.delta) for charges in (history, [*history, *whole]))
    runs, delta = budget.study.runs, budget.study.delta
    so_far = accounting.epsilon(of_study, delta)
    over_all = f"{'it' if runs == 1 else f'all {runs} together'}, at δ = {delta:g}"
    return [
        ("runs", f"{runs}, of which {len(charged)} {'has' if len(charged) == 1 else 'have'} begun"),
        ("ε, all runs", f"at most {_amount(budget.study.epsilon)} for {over_all}; {_amount(so_far)} is spent"),
        (
            "ε, clinic",
            f"{policy.epsilon:g} for all studies, at δ = {policy.delta:g}; {_amount(spent)} is spent, and a whole run "
            f"adds {_amount(total - spent if math.isfinite(total) else total)}",
        ),
    ]


def cannot_end(
    policy: ClinicPolicy, study: StudyProtocol, rows: Sequence[LedgerRow], run: str | None = None
) -> BudgetError | None:
    """Return why this clinic would decline a run of a private study for want of ε before its first round.

    Args:
        policy: as it stands, with the approval in it.
        study: approved.
        rows: of the ledger.
        run: one that has begun; None: one to come.

    Raises:
        DeclinedError: all runs that were approved have begun.
    """
    history = [mechanism_of(row) for row in rows if row.status == "reserved"]
    try:
        check_run(history, by_study(rows).get(study.digest, {}), run, limits(policy, study))
    except BudgetError as error:
        return error
    return None


def _amount(epsilon: float) -> str:
    return f"{epsilon:.4g}" if math.isfinite(epsilon) else "more than any ε"
