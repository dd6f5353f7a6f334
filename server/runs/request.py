"""What the coordinator asks for beside a study: with which clinics it is run, and what the recipe chose for it."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from melfed.common.errors import RunError
from melfed.common.files import write_text
from melfed.common.study.protocol import Section, StudyProtocol
from melfed.common.study.recipe import Choice
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import RunState, write_state

NAME = "request.json"


class Chosen(Section):
    """One key that `privacy.recipe: auto` chose."""

    key: str
    value: bool | int | float | str | None
    reason: str


class RunRequest(Section):
    """What `RUN/request.json` says."""

    clinics: tuple[str, ...] = Field(min_length=1, description="names of the clinics that take part")
    recipe: tuple[Chosen, ...] = ()
    joins: tuple[str, ...] = Field((), description="of a finished run of one round: whose releases are to be added")
    delivers: tuple[str, ...] = Field((), description="of a finished run: clinics that are to be sent its model")

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The recipe's choices, for the report."""
        return tuple(Choice(row.key, row.value, row.reason) for row in self.recipe)


def queue_run(
    path: Path, study: StudyProtocol, clinics: Sequence[str], choices: Sequence[Choice], *, fresh: bool = False
) -> RunFolder:
    """Make the folder of a deployed run; the daemon, which looks for such folders, then starts it.

    Args:
        path: of the folder.
        study: sealed.
        clinics: names of those that take part.
        choices: what the recipe chose.
        fresh: as `RunFolder.create`.

    Raises:
        RunError: something stands at `path` already.
        StorageError: it cannot be written.
    """
    recipe = tuple(Chosen(key=choice.key, value=_scalar(choice.value), reason=choice.reason) for choice in choices)
    folder = RunFolder.create(path, study, fresh=fresh)
    write_text(folder.path / NAME, RunRequest(clinics=tuple(clinics), recipe=recipe).model_dump_json(indent=1) + "\n")
    # Last: from now on the daemon sees the run.
    write_state(folder.path, RunState())
    return folder


def read_request(folder: Path) -> RunRequest:
    """Return what was asked for. Raises RunError where the file is missing or damaged."""
    path = folder / NAME
    try:
        return RunRequest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{folder}: not a deployed run (it has no {NAME}); start one with melfed-server run") from None
    except (OSError, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise RunError(f"{path}: cannot be read ({problem}); the run folder is damaged, start a new run") from None


def change_request(folder: Path, **changes: object) -> RunRequest:
    """Write a run's request with some fields replaced, and return it. Raises RunError, StorageError."""
    changed = RunRequest.model_validate({**dict(read_request(folder)), **changes})
    write_text(folder / NAME, changed.model_dump_json(indent=1) + "\n")
    return changed


def _scalar(value: object) -> bool | int | float | str | None:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
