"""`state/daemon.json`: how the daemon, its children and the clinics are; the daemon writes it, `status` shows it."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from melfed.common.errors import ServiceError
from melfed.common.files import write_text
from melfed.common.locks import is_held
from melfed.common.study.protocol import Section
from melfed.server.config import ServerConfig


class ChildRow(Section):
    """One child process."""

    name: str
    status: str
    pid: int | None = None
    restarts: int = 0
    reason: str = ""


class ClinicRow(Section):
    """One clinic whose key may connect, or that is revoked."""

    name: str
    online: bool = False
    revoked: bool = False
    node: int | None = Field(None, description="Flower's number for it")
    since: str | None = Field(None, description="of online, or of not online: ISO 8601, UTC; null: always")
    certificate_ends: str = ""


class DaemonState(Section):
    """What the file says."""

    pid: int
    started: str
    updated: str = ""
    children: tuple[ChildRow, ...] = ()
    clinics: tuple[ClinicRow, ...] = ()
    problems: tuple[str, ...] = ()


def write_daemon_state(path: Path, state: DaemonState) -> None:
    """Write the file, with the present time. Raises StorageError."""
    written = state.model_copy(update={"updated": datetime.now(UTC).isoformat(timespec="seconds")})
    write_text(path, written.model_dump_json(indent=1) + "\n")


def read_daemon_state(config: ServerConfig) -> DaemonState:
    """Return how the daemon is. Raises ServiceError where it is not running, or has not said so yet."""
    if not is_held(config.daemon_lock):
        raise ServiceError(f"{config.path}: the server is not running; start it with melfed-server start {config.path}")
    try:
        return DaemonState.model_validate_json(config.daemon_state.read_bytes())
    except (OSError, ValidationError):
        raise ServiceError(f"{config.path}: the server is starting; ask again in a few seconds") from None
