"""Errors that a user can mend: one line each, saying what is wrong, where, and what to do.

Every command prints such an error without a traceback and leaves with the error's exit code.
"""


class MelfedError(Exception):
    """Base of all errors that are shown to the user as one line."""

    exit_code = 1


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
