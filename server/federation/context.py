"""How a run is conducted: with whom, how patiently, and who is told; and what its `state.json` says of it."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import MelfedError, QuorumError, RunError, StorageError
from melfed.server.federation.observer import Observer
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import RunState, change_state, read_state

FieldValue = str | int | float | list[str] | None


class StoppedError(RunError):
    """Whoever conducts the run was told to stop."""


@dataclass(frozen=True)
class Conduct:
    """What the round loop is told beside the study.

    Attributes:
        expected: the clinics of this run: their names, or how many there are.
        stop: once it is set, the run ends at the next polling interval.
        poll_seconds: between two looks for answers; each costs HTTP and a database query in a deployment.
        deployed: clinics and this process may vanish at any time. Whoever is lost is asked again, answers are on disk
            before they count, and `state.json` says how the run stands. A simulation is one process: nothing of it.
        version: melfed's, here; a clinic of another one is told of. Empty: not looked at.
        audit: receives the events.
        flower_run: Flower's id of the run that this is.
    """

    expected: int | frozenset[str]
    stop: threading.Event = field(default_factory=threading.Event)
    poll_seconds: float = 0.1
    deployed: bool = False
    version: str = ""
    audit: AuditLog | None = None
    flower_run: int | None = None

    @property
    def clinics(self) -> int:
        """How many clinics are expected."""
        return self.expected if isinstance(self.expected, int) else len(self.expected)

    def record(self, event: Event, **fields: FieldValue) -> None:
        """Write an event to the audit log (which tells the process's own log as well). Raises StorageError."""
        if self.audit is not None:
            self.audit.record(event, **fields)

    def wait(self, folder: RunFolder, observer: Observer) -> None:
        """Pass one polling interval. Raises StoppedError where the run is to stop."""
        observer.waiting()
        if self.stop.wait(self.poll_seconds):
            raise StoppedError(f"{folder.path}: stopped early; go on with --resume {folder.path}")


@contextlib.contextmanager
def standing(folder: RunFolder, conduct: Conduct) -> Iterator[None]:
    """Keep a deployed run's `state.json` and the audit log true while the run goes on: running, failed, stopped.

    A run that failed for want of space stays wanted, so that it goes on by itself when there is space again; any other
    failure is for the coordinator to mend. A process that is killed leaves "running" behind, and the run wanted.
    """
    if not conduct.deployed:
        yield
        return
    change_state(folder.path, status="running", reason="", flower_run=conduct.flower_run)
    try:
        yield
    except StoppedError as error:
        _settle(folder, conduct, "stopped", error)
        raise
    except MelfedError as error:
        _settle(folder, conduct, "failed", error)
        raise


def completed(folder: RunFolder, conduct: Conduct) -> None:
    """Write down that a deployed run is complete, its model and report written. Raises StorageError."""
    if conduct.deployed:
        state = change_state(folder.path, wanted=False, status="completed", reason="")
        study = folder.study()
        rounds = study.federation.rounds if study.federation.stop is None else state.round
        conduct.record(Event.RUN_COMPLETED, run=folder.identity, digest=study.digest, rounds=rounds)


def _settle(folder: RunFolder, conduct: Conduct, status: str, error: MelfedError) -> None:
    reason = f"quorum: {error}" if isinstance(error, QuorumError) else str(error)
    wanted = status == "failed" and isinstance(error, StorageError)
    # On a full disk not even this can be written: the state stays "running", and the run is taken up again as well.
    with contextlib.suppress(StorageError):
        change_state(folder.path, status=status, reason=reason, **({} if wanted else {"wanted": False}))
    with contextlib.suppress(StorageError):
        state = read_state(folder.path) or RunState()
        if status == "stopped":
            conduct.record(Event.RUN_STOPPED, run=folder.identity, round=state.round)
        else:
            told = {"run": folder.identity, "reason": reason}
            conduct.record(Event.RUN_FAILED, **told, round=state.round, code=error.exit_code)
