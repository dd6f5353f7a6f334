"""How the server is: the daemon's children, the clinics, the runs; what `status` and the live page show."""

import functools
from pathlib import Path

from pydantic import Field

from melfed.common.errors import MelfedError, ServiceError
from melfed.common.study.protocol import Section
from melfed.server.clinics.self_reports import Said, read_said
from melfed.server.config import ServerConfig
from melfed.server.daemon.state import ChildRow, ClinicRow, read_daemon_state
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import read_state


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
        state = read_state(path)
        file = path / "study.yaml"
        name, digest, rounds, identity = _made_of(path, file.stat().st_mtime_ns if file.exists() else 0)
    except MelfedError as error:
        return RunStatus(name=path.name, status="damaged", reason=str(error))
    if state is None:
        return RunStatus(name=path.name, status="damaged", reason="its state.json is gone")
    return RunStatus(
        name=path.name,
        identity=identity,
        status=state.status,
        wanted=state.wanted,
        study=name,
        digest=digest,
        round=state.round,
        rounds=rounds,
        reason=state.reason or (state.doing if state.status == "running" else ""),
        updated=state.updated,
    )


@functools.lru_cache(maxsize=1024)
def _made_of(path: Path, written: int) -> tuple[str, str, int, str]:  # noqa: ARG001 (another file is read anew)
    """Return a run's study: name, digest and rounds; and the run's identity. Raises MelfedError."""
    folder = RunFolder(path)
    study = folder.study()
    return study.name, study.digest, study.federation.rounds, folder.identity
