"""What `melfed-server status` shows, and how clinics are asked for it."""

import time
from typing import TYPE_CHECKING

from melfed.common.errors import ServiceError
from melfed.common.terminal.times import ago
from melfed.server.config import ServerConfig
from melfed.server.status import ClinicStatus, ServerStatus

if TYPE_CHECKING:
    from rich.table import Table

    from melfed.common.study.protocol import StudyProtocol
    from melfed.server.flower.control_client import Control

ASK_SECONDS = 90.0
PAUSE = 0.3
LONGEST_WHY = 100


def ask_clinics(config: ServerConfig, seconds: float = ASK_SECONDS, about: "StudyProtocol | None" = None) -> None:
    """Have all clinics that are online say how they are; their answers are on file then.

    Args:
        config: the coordinator's.
        seconds: how long they are waited for.
        about: the study that they are asked about, sealed; None: that of the last run.

    Raises:
        StorageError: the study cannot be written to the state folder.
        ServiceError: SuperLink cannot be reached, or they were not asked in time.
    """
    from melfed.server.clinics.asked import write_asked
    from melfed.server.flower.control_client import Control
    from melfed.server.flower.superlink import read_file

    with Control(config) as control:
        run_id = control.start_run("" if about is None else write_asked(config, about), read_file(config.bundle))
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
