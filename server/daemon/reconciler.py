"""The daemon's loop: makes what is so agree with what is wanted, a step every two seconds.

Wanted is what is written down: which clinics are let in (`clinics/*.json`), and which runs are to go on (each run's
`state.json`). What is so is asked for: SuperLink's clinics and runs, nginx's list, and whether a run is conducted. So
it does not matter what has crashed in between, or in which order: the next steps mend it.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import MelfedError, ServiceError, StorageError
from melfed.common.locks import is_held
from melfed.server.clinics.registry import ClinicRecord, read_clinics
from melfed.server.config import ServerConfig
from melfed.server.flower.control_client import FlowerNode, FlowerRun, public_key
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import CONDUCTED, RunState, change_state, read_state

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds from the end of a ServerApp to its next start; twice as long each time, while the run gets no further."""

ATTEMPTS = 8
"""ServerApps that may end in one and the same round; then the run has failed."""

START_SECONDS = 120.0
"""How long a ServerApp may take from its submission until it conducts its run."""

LOW_BYTES = 256 * 2**20

SILENT_SECONDS = 180.0
"""How long SuperLink may leave the daemon without an answer; a busy one answers within seconds."""

_log = logging.getLogger("melfed.server")


class Controls(Protocol):
    """What is asked of SuperLink: `melfed.server.flower.control_client.Control`."""

    def register(self, record: ClinicRecord) -> int:
        """Let a clinic's key in."""

    def unregister(self, node_id: int) -> None:
        """Shut a key out."""

    def nodes(self) -> tuple[FlowerNode, ...]:
        """Return whose keys are in."""

    def start_run(self, run: str, bundle: bytes) -> int:
        """Start a ServerApp."""

    def stop_run(self, run_id: int) -> None:
        """Stop a ServerApp."""

    def run(self, run_id: int) -> FlowerRun | None:
        """Return one of Flower's runs."""

    def runs(self) -> tuple[FlowerRun, ...]:
        """Return Flower's last runs."""


class Gate(Protocol):
    """What is asked of nginx: `melfed.server.edge.nginx.Edge`."""

    def write(self, clinics: tuple[ClinicRecord, ...]) -> bool:
        """Write whom it lets in; tell whether that changed."""

    def reload(self) -> bool:
        """Have it read that."""


@dataclass
class _Try:
    """How often a run's ServerApp was started without getting further."""

    round: int = -1
    number: int = 0
    pause: float = 0.0
    due: float = 0.0
    submitted: float | None = None


@dataclass
class Reconciler:
    """Does one step at a time; keeps nothing that could not be found out anew."""

    config: ServerConfig
    control: Controls
    gate: Gate
    bundle: bytes
    audit: AuditLog
    clock: Callable[[], float] = time.monotonic
    clinics: tuple[ClinicRecord, ...] = ()
    nodes: tuple[FlowerNode, ...] = ()
    problems: tuple[str, ...] = ()
    tries: dict[str, _Try] = field(default_factory=dict)
    silent_since: float | None = None  # of `clock`; None: SuperLink has answered
    _adopted: bool = False
    _full: bool = False

    def step(self) -> None:
        """Look at everything once; what cannot be done is in `problems`, and is tried again in the next step."""
        found: dict[str, MelfedError] = {}
        for part in (self.ask, self.let_in, self.adopt, self.see_to_runs, self.look_at_disk):
            try:
                part()
            except MelfedError as error:
                found[str(error)] = error
        for problem, reason in found.items():
            if problem not in self.problems:
                self._tell(problem, reason)
        self.problems = tuple(found)

    def _tell(self, problem: str, error: MelfedError) -> None:
        _log.error("%s", problem)
        if isinstance(error, StorageError):
            self.audit.record_or_hold(Event.SERVER_DISK_FULL, reason=problem)

    def look_at_disk(self) -> None:
        """Raise StorageError where there is hardly any space left, or the audit log cannot be written."""
        self._full = True  # unless all of this can be done
        self.audit.write_held()
        folders = {"state": self.config.state, "runs": self.config.runs}
        low = [name for name, at in folders.items() if at.is_dir() and shutil.disk_usage(at).free < LOW_BYTES]
        if low:
            left = f"less than {LOW_BYTES // 2**20} MiB of disk are left for {' and '.join(low)}"
            raise StorageError(f"{self.config.path}: {left}; free space")
        self._full = False

    def hangs(self) -> bool:
        """Tell whether SuperLink is to be started anew: it has not answered for long, and the disk is not why."""
        return self.silent_since is not None and not self._full and self.clock() - self.silent_since >= SILENT_SECONDS

    def ask(self) -> None:
        """Ask SuperLink who is there. Raises ServiceError; the rest of the step then asks it nothing more."""
        try:
            self.nodes = self.control.nodes()
        except ServiceError:
            if self.silent_since is None:
                self.silent_since = self.clock()
            raise
        self.silent_since = None

    def let_in(self) -> None:
        """Have SuperLink and nginx let in the approved clinics, and nobody else.

        Raises:
            ServerConfigError: a record cannot be used; all stays as it was.
            ServiceError: SuperLink or nginx cannot be reached.
        """
        self.clinics = read_clinics(self.config.clinics)
        # First nginx: whom it shuts out is out.
        if self.gate.write(self.clinics) and self.gate.reload():
            names = [record.name for record in self.clinics if not record.revoked]
            self.audit.record_or_hold(Event.EDGE_RELOADED, clinics=names)
        if self.silent_since is not None:
            return
        wanted = {public_key(record): record for record in self.clinics if not record.revoked}
        for node in self.nodes:
            record = wanted.get(node.public_key)
            if record is None or record.name != node.name:
                self.control.unregister(node.node_id)
                self.audit.record_or_hold(Event.CLINIC_REVOKED, clinic=node.name)
        known = {(node.public_key, node.name) for node in self.nodes}
        missing = [record for key, record in wanted.items() if (key, record.name) not in known]
        for record in missing:
            self.control.register(record)
            self.audit.record_or_hold(Event.CLINIC_APPROVED, clinic=record.name, certificate=record.serial)
        if missing:
            self.nodes = self.control.nodes()

    def adopt(self) -> None:
        """Once, at the start: stop what of Flower's runs is active and belongs to no run's `state.json`."""
        if self._adopted or self.silent_since is not None:
            return
        for flower in self.control.runs():
            if flower.active and flower.run_id not in self._flower_runs():
                self.control.stop_run(flower.run_id)
        self._adopted = True

    def _flower_runs(self) -> set[int | None]:
        return {state.flower_run for _, state in self._runs()}

    def _runs(self) -> list[tuple[Path, RunState]]:
        found = []
        for path in sorted(self.config.runs.iterdir()) if self.config.runs.is_dir() else []:
            state = read_state(path) if path.is_dir() else None
            if state is not None:
                found.append((path, state))
        return found

    def see_to_runs(self) -> None:
        """Start what is wanted and not under way, and stop what is under way and not wanted.

        Raises:
            RunError: the state of a run cannot be read; the others are seen to all the same.
            ServiceError, StorageError: something could not be done for a run.
        """
        if self.silent_since is not None:
            return
        failed: list[MelfedError] = []
        for path in sorted(self.config.runs.iterdir()) if self.config.runs.is_dir() else []:
            try:
                state = read_state(path) if path.is_dir() else None
                if state is not None:
                    self._see_to(path, state)
            except MelfedError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _see_to(self, path: Path, state: RunState) -> None:
        if state.wanted and state.status != "completed":
            self._further(path, state)
            return
        # Whoever resumes it begins to count anew.
        self.tries.pop(path.name, None)
        if state.status in {"queued", "running"}:
            self._stop(path, state)

    def _stop(self, path: Path, state: RunState) -> None:
        """Stop a run that is not wanted, and write that down once it has stopped."""
        if self._active(state):
            self.control.stop_run(int(state.flower_run or 0))
        if not is_held(path / CONDUCTED):
            now = read_state(path)
            if now is not None and now.status in {"queued", "running"}:
                change_state(path, status="stopped", reason="stopped by the coordinator")
                self.audit.record_or_hold(
                    Event.RUN_STOPPED, run=RunFolder(path).identity, round=now.round, by="the coordinator"
                )

    def _active(self, state: RunState) -> bool:
        flower = None if state.flower_run is None else self.control.run(state.flower_run)
        return flower is not None and flower.active

    def _further(self, path: Path, state: RunState) -> None:
        """See that somebody conducts a run that is wanted."""
        attempt = self.tries.setdefault(path.name, _Try())
        if is_held(path / CONDUCTED):
            return
        if self._active(state):
            # Queued: not begun yet. Running, and nobody conducts it: its process has died, and Flower will see later.
            if attempt.submitted is None:  # by a daemon before this one
                attempt.submitted = self.clock()
            # Longer each time: what is slow to start on a busy machine is not made faster by starting it anew.
            patience = START_SECONDS * max(attempt.number, 1)
            if state.status == "queued" and self.clock() - attempt.submitted < patience:
                return
            now = read_state(path)
            if now is None or now.status not in {"queued", "running"} or is_held(path / CONDUCTED):
                return
            self.control.stop_run(int(state.flower_run or 0))
        if state.round > attempt.round:
            attempt.round, attempt.number, attempt.pause = state.round, 0, 0.0
        if state.status == "failed" or self._full:
            # It waits for space, for nights if need be. Where a disk was full to the brim it could not say so.
            attempt.number = 0
        if self.clock() < attempt.due:
            return
        if attempt.number >= ATTEMPTS:
            self._give_up(path, state, attempt)
        else:
            self._submit(path, attempt)

    def _submit(self, path: Path, attempt: _Try) -> None:
        folder = RunFolder(path)
        identity, study = folder.identity, folder.study()
        change_state(path, status="queued", flower_run=None)
        flower_run = self.control.start_run(path.name, self.bundle)
        attempt.number += 1
        attempt.submitted = self.clock()
        attempt.pause = min(max(FIRST_PAUSE, 2.0 * attempt.pause), LONGEST_PAUSE)
        attempt.due = self.clock() + attempt.pause
        change_state(path, flower_run=flower_run)
        self.audit.record_or_hold(
            Event.RUN_SUBMITTED,
            run=identity,
            name=path.name,
            flower_run=flower_run,
            study=study.name,
            digest=study.digest,
        )

    def _give_up(self, path: Path, state: RunState, attempt: _Try) -> None:
        reason = (
            f"its ServerApp ended {attempt.number} times after round {state.round}; see {self.config.state}/logs, and "
            f"go on with melfed-server run --resume {path.name}"
        )
        change_state(path, wanted=False, status="failed", reason=reason)
        self.audit.record_or_hold(Event.RUN_FAILED, run=RunFolder(path).identity, round=state.round, reason=reason)
        self.tries.pop(path.name, None)
        _log.error("run %s: %s", path.name, reason)
