"""What `melfed-server status` shows: the daemon's children, the clinics, the runs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from melfed.common.errors import MelfedError, ServiceError
from melfed.common.study.protocol import Section
from melfed.common.terminal.times import ago
from melfed.server.clinics.self_reports import Said, read_said
from melfed.server.config import ServerConfig
from melfed.server.daemon.state import ChildRow, ClinicRow, read_daemon_state
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import read_state

if TYPE_CHECKING:
    from rich.table import Table

    from melfed.server.flower.control_client import Control

ASK_SECONDS = 90.0
PAUSE = 0.3
LONGEST_WHY = 100


class ClinicStatus(ClinicRow):
    """A clinic: whether it is there, and what it last said of itself."""

    version: str | None = None
    approved: tuple[str, ...] | None = Field(None, description="digests of studies; null: it did not tell")
    budget: float | None = Field(None, description="ε that is left; null: it did not tell")
    reason: str = ""
    asked: str | None = None


class RunStatus(Section):
    """A run."""

    name: str
    identity: str = Field("", description="what ledgers and audit logs call it")
    status: str
    wanted: bool = False
    study: str = ""
    digest: str = ""
    round: int = 0
    rounds: int = 0
    reason: str = ""
    updated: str = ""


class ServerStatus(Section):
    """Everything."""

    running: bool
    updated: str = ""
    children: tuple[ChildRow, ...] = ()
    clinics: tuple[ClinicStatus, ...] = ()
    runs: tuple[RunStatus, ...] = ()
    problems: tuple[str, ...] = ()


def server_status(config: ServerConfig) -> ServerStatus:
    """Return how everything is; of a server that is not running, its runs alone."""
    runs = tuple(_run(path) for path in _run_folders(config.runs))
    try:
        daemon = read_daemon_state(config)
    except ServiceError as error:
        return ServerStatus(running=False, runs=runs, problems=(str(error),))
    said = read_said(config.clinics_said)
    return ServerStatus(
        running=True,
        updated=daemon.updated,
        children=daemon.children,
        clinics=tuple(_clinic(row, said.get(row.name)) for row in daemon.clinics),
        runs=runs,
        problems=daemon.problems,
    )


def _clinic(row: ClinicRow, said: Said | None) -> ClinicStatus:
    told = (
        {}
        if said is None
        else {
            "version": said.version or None,
            "approved": said.approved,
            "budget": said.budget,
            "reason": said.reason,
            "asked": said.at,
        }
    )
    return ClinicStatus(**{**row.model_dump(), **told})


def _run_folders(runs: Path) -> list[Path]:
    found = runs.glob("*/state.json") if runs.is_dir() else []
    return sorted((path.parent for path in found), key=lambda path: path.stat().st_mtime)


def _run(path: Path) -> RunStatus:
    try:
        state, folder = read_state(path), RunFolder(path)
        study, identity = folder.study(), folder.identity
    except MelfedError as error:
        return RunStatus(name=path.name, status="damaged", reason=str(error))
    if state is None:
        return RunStatus(name=path.name, status="damaged", reason="its state.json is gone")
    return RunStatus(
        name=path.name,
        identity=identity,
        status=state.status,
        wanted=state.wanted,
        study=study.name,
        digest=study.digest,
        round=state.round,
        rounds=study.federation.rounds,
        reason=state.reason,
        updated=state.updated,
    )


def ask_clinics(config: ServerConfig, seconds: float = ASK_SECONDS) -> None:
    """Have all clinics that are online say how they are; their answers are on file then.

    Raises:
        ServiceError: SuperLink cannot be reached, or they were not asked in time.
    """
    from melfed.server.flower.control_client import Control
    from melfed.server.flower.superlink import read_file

    with Control(config) as control:
        run_id = control.start_run("", read_file(config.bundle))
        deadline = time.monotonic() + seconds
        try:
            _await(control, run_id, deadline)
        finally:
            if time.monotonic() > deadline:
                control.stop_run(run_id)


def _await(control: "Control", run_id: int, deadline: float) -> None:
    while (run := control.run(run_id)) is not None and run.active:
        if time.monotonic() > deadline:
            raise ServiceError("the clinics were not asked in time; see the log of superexec in the state folder")
        time.sleep(PAUSE)
    if run is None or run.status != "completed":
        raise ServiceError("the clinics could not be asked; see the log of superexec in the state folder")


def tables(status: ServerStatus) -> "list[Table]":
    """Return tables of children, clinics and runs."""
    from rich import box
    from rich.table import Table

    children, clinics, runs = (
        Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("server", "clinics", "runs")
    )
    for table, columns in (
        (children, ("process", "status", "pid", "restarts", "last end")),
        (clinics, ("clinic", "online", "since", "version", "approved", "ε left", "certificate ends")),
        (runs, ("run", "study", "status", "round", "why")),
    ):
        for column in columns:
            table.add_column(column, overflow="fold")
    for child in status.children:
        children.add_row(child.name, child.status, str(child.pid or "–"), str(child.restarts), child.reason)
    for clinic in status.clinics:
        clinics.add_row(*_clinic_cells(clinic))
    for run in status.runs:
        why = run.reason if len(run.reason) <= LONGEST_WHY else f"{run.reason[:LONGEST_WHY]}…; melfed-server log"
        runs.add_row(run.name, f"{run.study} {run.digest[:12]}", run.status, f"{run.round} of {run.rounds}", why)
    return [children, clinics, runs]


def _clinic_cells(clinic: ClinicStatus) -> tuple[str, ...]:
    online = "revoked" if clinic.revoked else "yes" if clinic.online else "no"
    approved = "?" if clinic.approved is None else ", ".join(digest[:12] for digest in clinic.approved) or "none"
    budget = "?" if clinic.budget is None else f"{clinic.budget:.3g}"
    since = ago(clinic.since) if clinic.since else "never"
    return clinic.name, online, since, clinic.version or "?", approved, budget, clinic.certificate_ends[:10]
