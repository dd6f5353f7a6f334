"""A run's `state.json`: whether the coordinator wants it, and how far it is. The daemon resumes runs by it."""

import contextlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from melfed.common.errors import RunError, StorageError
from melfed.common.files import write_text
from melfed.common.locks import lock
from melfed.common.study.protocol import Section

RunPhase = Literal["queued", "running", "completed", "failed", "stopped"]
NAME, LOCK = "state.json", ".state.lock"
CONDUCTED = ".conducted.lock"
"""In a run folder: held by the ServerApp that conducts the run."""


class RunState(Section):
    """What `state.json` says."""

    wanted: bool = Field(True, description="a run that is wanted and has no active Flower run is submitted again")
    status: RunPhase = Field("queued", description="how the run stands")
    reason: str = Field("", description="why it failed or was stopped, in one line")
    flower_run: int | None = Field(None, description="Flower's id of the run that does the work")
    round: int = Field(0, ge=0, description="the last round that is checkpointed")
    doing: str = Field("", description="of a run that goes on: what is waited for, in one line")
    updated: str = Field("", description="when this was written, ISO 8601, UTC")


def read_state(folder: Path) -> RunState | None:
    """Return the state of the run in a folder; None where none was ever written (as in a simulation).

    Raises:
        RunError: the file is damaged.
    """
    path = folder / NAME
    try:
        return RunState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise RunError(f"{path}: cannot be read ({problem}); delete it and go on with --resume {folder}") from None


def write_state(folder: Path, state: RunState) -> RunState:
    """Write a run's state atomically, with the present time; return what was written.

    Raises:
        StorageError: it cannot be written; the previous one stays whole.
    """
    written = state.model_copy(update={"updated": datetime.now(UTC).isoformat(timespec="seconds")})
    write_text(folder / NAME, written.model_dump_json(indent=1) + "\n")
    return written


def change_state(folder: Path, **changes: Any) -> RunState:
    """Change some fields of a run's state, and leave the others as they stand.

    Command line, daemon and ServerApp all write here: a lock keeps one's change from undoing another's.

    Raises:
        RunError, StorageError: as `read_state` and `write_state`.
    """
    with _locked(folder):
        before = read_state(folder) or RunState()
        return write_state(folder, RunState.model_validate(before.model_dump() | changes))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path, math.inf))  # held for one small write
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}; free space and try again") from None
        yield
