"""How the clinic is: what runs, what would keep it from taking part, what is approved, and what is spent.

Each part is told apart: who may not read the worker's state (the messenger's user, say) still sees the rest.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from melfed.client.approval.approvals import effective_policy
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.policy import ClinicPolicy
from melfed.client.daemon.daemon import PROBE_SECONDS, ROLES, RunningDaemon, read_status
from melfed.client.daemon.health import ask_health
from melfed.client.doctor.examination import examine_briefly
from melfed.client.rpc.peer_credentials import knock
from melfed.common.doctor.steps import Check
from melfed.common.errors import MelfedError

if TYPE_CHECKING:
    from melfed.client.approval.study_accounts import StudyAccount

CONNECT_SECONDS = 3.0
UNREADABLE = "this user may not read it"

Value = TypeVar("Value")


@dataclass(frozen=True)
class EpsilonBudget:
    """The clinic's ε: allowed, spent and left, at δ; infinite where a charge had no noise."""

    epsilon: float
    delta: float
    spent: float

    @property
    def left(self) -> float:
        """What is left, at least 0."""
        return max(self.epsilon - self.spent, 0.0)


@dataclass(frozen=True)
class LastRound:
    """The last charge of the ledger."""

    study: str
    run: str
    round: int
    purpose: str
    status: str
    time: str


@dataclass(frozen=True)
class ClientStatus:
    """How a clinic is.

    Attributes:
        running: whether every process does its work.
        processes: what each does, in a word.
        daemon: what the daemon says of itself; None where none runs, or this user may not know.
        coordinator: address of the server.
        checks: what the doctor finds of what changes while a clinic runs.
        approved: digests of the approved studies, or "any".
        budget: None where it cannot be told.
        studies: what each study may cost, and has cost; empty where it cannot be told.
        last: None without any charge, or where it cannot be told.
        problems: what could not be told, and why.
    """

    clinic: str
    running: bool
    processes: dict[str, str]
    daemon: RunningDaemon | None
    coordinator: str
    checks: tuple[Check, ...]
    approved: tuple[str, ...] | str | None
    budget: EpsilonBudget | None
    studies: tuple["StudyAccount", ...]
    last: LastRound | None
    problems: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether the clinic would take part now: all of it runs, and no check has failed."""
        return self.running and not any(check.status == "failed" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold; an infinite ε is null."""
        content = {"clinic": self.clinic, "ready": self.ready, **asdict(self)}
        if self.budget is not None:
            numbers = {**content["budget"], "left": self.budget.left}
            content["budget"] = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        content["studies"] = [account.as_json() for account in self.studies]
        return content


def status(config: ClinicConfig) -> ClientStatus:
    """Return how a clinic is; what cannot be told is in `problems`. Takes seconds, with a table of a usual size."""
    problems: list[str] = []
    daemon = _told("processes", lambda: read_status(config), problems)
    processes = _processes(config, daemon)
    policy = _told("approved studies", lambda: effective_policy(config), problems)
    books = _told("ledger", lambda: _books(config, policy or config.policy), problems)
    budget, studies, last = books or (None, (), None)
    return ClientStatus(
        clinic=config.name,
        running=all(word == "ready" for word in processes.values()),
        processes=processes,
        daemon=daemon,
        coordinator=f"{config.coordinator.host}:{config.coordinator.port}",
        checks=tuple(examine_briefly(config, CONNECT_SECONDS)),
        approved=policy.studies if policy else None,
        budget=budget,
        studies=studies,
        last=last,
        problems=tuple(problems),
    )


def _told(what: str, read: Callable[[], Value], problems: list[str]) -> Value | None:
    try:
        return read()
    except PermissionError:
        problems.append(f"{what}: {UNREADABLE}")
    except MelfedError as error:
        problems.append(f"{what}: {error}")
    return None


def _processes(config: ClinicConfig, daemon: RunningDaemon | None) -> dict[str, str]:
    """Return what each process does: from the daemon, else by asking."""
    port = config.file.health_port
    answers = (ask_health(port, ROLES) if port is not None else None) or {}
    found: dict[str, str] = {"worker": _at_the_door(config), "supernode": "not running", "messenger": "not running"}
    for role in ROLES:
        # The worker may refuse the messenger, and still answer root; or answer the messenger, and not this user. That
        # nobody is at its door is newer than what the daemon says.
        if role in answers and (role != "worker" or found[role] != "not running"):
            found[role] = "ready" if answers[role] else "not ready"
    for child in daemon.children if daemon else ():
        found[str(child["name"])] = str(child["status"])
    return found


def _at_the_door(config: ClinicConfig) -> str:
    """Return what the worker itself says to this user; it may be another's business."""
    try:
        heard = knock(config.socket, PROBE_SECONDS)
    except PermissionError:
        return UNREADABLE
    return {"answers": "ready", "refuses": "refuses this user", "silent": "not running"}[heard]


def _books(
    config: ClinicConfig, policy: ClinicPolicy
) -> tuple[EpsilonBudget, tuple["StudyAccount", ...], LastRound | None]:
    """Read the ledger as it is now; the worker may be writing to it. Raises LedgerError, PermissionError."""
    from melfed.client.approval.study_accounts import accounts, ledger_of
    from melfed.client.ledger.budget import mechanism_of
    from melfed.client.privacy import accounting

    ledger = ledger_of(config)
    rows = ledger.rows if ledger else ()
    history = [mechanism_of(row) for row in rows if row.status == "reserved"]
    budget = EpsilonBudget(policy.epsilon, policy.delta, accounting.epsilon(history, policy.delta))
    studies = accounts(config, policy, rows)
    if not rows:
        return budget, studies, None
    row = rows[-1]
    return budget, studies, LastRound(row.study, row.run, row.round, row.purpose, row.status, row.time)
