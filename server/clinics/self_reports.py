"""What clinics last said of themselves, for `melfed-server status`: `state/clinics-said.json`.

A clinic is known here by the name that its key is registered under, whatever it calls itself.
"""

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from melfed.common.errors import StorageError
from melfed.common.files import write_text
from melfed.common.study.protocol import Section

LONGEST = 80
MOST = 100
"""Of what comes from outside, so much is kept."""
MOST_MINUTES = 1 << 14


class Said(Section):
    """What one clinic said when it was last asked to describe itself."""

    version: str = ""
    approved: tuple[str, ...] | None = Field(None, description="digests of studies, or 'any'; null: it does not tell")
    budget: float | None = Field(None, description="ε that is left; null: it does not tell")
    reason: str = Field("", description="why it takes no part in what it was asked about; empty: it does")
    declined: str = Field("", description="digest of the study that it declined for this reason; empty: none")
    round_minutes: int | None = Field(None, description="a round of a study at most; null: it does not tell")
    timed: str = Field("", description="digest of the study that this is of; empty: none")
    at: str = Field("", description="when, ISO 8601, UTC")


class ClinicsSaid(Section):
    """The file's content: by the clinic's name."""

    clinics: dict[str, Said] = Field(default_factory=dict)


def read_said(path: Path) -> dict[str, Said]:
    """Return what is on file; nothing where there is no file, or a damaged one, which the next answer replaces."""
    try:
        return dict(ClinicsSaid.model_validate_json(path.read_bytes()).clinics)
    except (OSError, ValidationError):
        return {}


def note_said(path: Path, clinic: str, said: Said) -> None:
    """Write down what a clinic said, with the present time. On a full disk it is lost: status alone shows it.

    Whoever declines or refuses does not say what it has approved, or what is left: what it said of that before stays.
    """
    clinics = read_said(path)
    changes: dict[str, object] = {"at": present()}
    if said.reason and clinic in clinics:
        changes |= {"approved": clinics[clinic].approved, "budget": clinics[clinic].budget}
    clinics[clinic] = said.model_copy(update=changes)
    with contextlib.suppress(StorageError):
        write_text(path, ClinicsSaid(clinics=dict(sorted(clinics.items()))).model_dump_json(indent=1) + "\n")


def present() -> str:
    """Return the present time as `Said.at` has it: later times are greater texts."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def word(value: object) -> str:
    """Return a word from outside, printable and short."""
    return "".join(letter for letter in str(value) if letter.isprintable())[:LONGEST]


def minutes(value: object) -> int | None:
    """Return how long a round takes at most, as a clinic says it; None of what is no power of two of minutes."""
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_MINUTES
    return int(value) if isinstance(value, int) and whole and value.bit_count() == 1 else None


def words(values: object) -> tuple[str, ...]:
    """Return words from outside; none where it is no list."""
    return tuple(word(value) for value in values)[:MOST] if isinstance(values, Iterable) else ()
