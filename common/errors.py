"""Errors that a user can mend: one line each, saying what is wrong, where, and what to do.

Every command prints such an error without a traceback and leaves with the error's exit code.
"""

import re

_BREAKS = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What ends a line, and what terminals obey: logs are read line by line."""
LONGEST = 4000
"""Characters of an error."""


class MelfedError(Exception):
    """Base of all errors that are shown to the user as one line.

    Line breaks in the text (of a key, of a file's name) become spaces, other control characters question marks, and of
    a text that is longer than any that melfed writes by itself (a value that somebody wrote) the beginning stays.

    >>> print(StudyError("study.yaml: unknown key a\\nb"))
    study.yaml: unknown key a b
    """

    exit_code = 1

    def __init__(self, text: str) -> None:
        line = _CONTROLS.sub("?", _BREAKS.sub(" ", text))
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…")

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback: the line, as the commands."""
        return [f"{type(self).__name__}: {self}"]


class StudyError(MelfedError):
    """The study protocol is invalid, or does not fit the run."""

    exit_code = 3


class DataError(MelfedError):
    """The data folder, its table or its images cannot be used."""

    exit_code = 4


class WeightsError(MelfedError):
    """Pretrained weights are missing, altered, or of another model."""

    exit_code = 5


class RunError(MelfedError):
    """The run folder cannot be used: it exists, is incomplete, or belongs to another study."""

    exit_code = 6


class QuorumError(MelfedError):
    """Too few clinics answered, so the run could not go on."""

    exit_code = 7


class StorageError(MelfedError):
    """A file could not be written (disk full, no permission); what was there before is whole."""

    exit_code = 8


class DeclinedError(MelfedError):
    """A clinic's policy, or what is left of its privacy budget, forbids what was asked."""

    exit_code = 9


class BudgetError(DeclinedError):
    """The clinic's privacy budget does not allow it. The text says of the budget only that; it may leave the clinic.

    Attributes:
        figures: how much the clinic allows, and how much of that is left: for its own people, and for others only
            where it tells its budget.
    """

    def __init__(self, text: str, figures: str = "") -> None:
        super().__init__(text)
        self.figures = figures


class LedgerError(MelfedError):
    """A privacy ledger is damaged, altered, or of other data: nothing may be trained until that is understood."""

    exit_code = 10


class PolicyError(MelfedError):
    """The clinic's own configuration, clinic.yaml, is invalid: the clinic answers no study until it is mended."""

    exit_code = 11


class AuditError(MelfedError):
    """An audit has refuted the ε that the accounting claims: nothing may be trained until the fault is found."""

    exit_code = 12


class ServerConfigError(MelfedError):
    """The server's configuration, its kit, or a consortium file cannot be used."""

    exit_code = 13


class ServiceError(MelfedError):
    """A process that others rely on (worker, SuperLink, nginx) cannot be started or reached."""

    exit_code = 14


class CancelledError(MelfedError):
    """Work was called off, or its deadline passed, before it was done."""

    exit_code = 15


class CellsError(MelfedError):
    """Cells of a comparison have no result; the code is 20 and their number, 120 at the most."""

    exit_code = 20

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.exit_code = type(self).exit_code + min(number, 100)
