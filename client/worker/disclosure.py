"""What a clinic tells of why it does not answer: the one place that every reason passes before it leaves.

Whoever asks learns kind and text of an error, so neither may hang on a patient, nor on what the clinic keeps to itself
of its budget. The errors themselves travel through the worker as they are, for the clinic's own logs; `Telling.told`
makes of each what may leave, and `written` what the audit log may hold.
"""

import logging
from dataclasses import dataclass
from typing import Final

from melfed.common.errors import (
    BudgetError,
    CancelledError,
    DataError,
    DeclinedError,
    MelfedError,
    ServiceError,
    StudyError,
)
from melfed.common.tensors import TensorError

CANNOT: Final = "this clinic cannot answer; its own people see why"
"""All that is said of a private study's failure that may hang on the clinic's data, its ledger or its machine."""

_log = logging.getLogger(__name__)


class BusyError(ServiceError):
    """The worker has other work: whoever asks later may be answered."""


_TOLD = (DeclinedError, StudyError, TensorError, CancelledError, BusyError)
"""Errors whose text is about the study, the model that came, the clinic's policy or its load: it holds for any data."""


@dataclass(frozen=True)
class Telling:
    """How much a clinic tells.

    Attributes:
        budget: whether it tells how much ε it allows, and how much is left (`tell.budget`).
        everything: at a simulated clinic, whose user must be told.
    """

    budget: bool = False
    everything: bool = False

    def told(self, error: Exception, *, private: bool) -> MelfedError:
        """Return an error as it may leave the clinic; what it loses by that goes to the process's log.

        Args:
            error: as it was raised.
            private: whether the study that was asked about has a privacy section, or cannot be read: then all errors
                that may hang on patients are one.
        """
        if isinstance(error, BudgetError):
            return DeclinedError(in_full(error) if self.budget or self.everything else str(error))
        if isinstance(error, _TOLD) or (self.everything and isinstance(error, MelfedError)):
            return error
        _log.error("%s", written(error))
        if private:
            return ServiceError(CANNOT)
        if not isinstance(error, MelfedError):
            return ServiceError("an error in melfed itself; the clinic's own log says where")
        where = (
            "melfed-client doctor, there, says more"
            if isinstance(error, DataError)
            else "the clinic's own log says more"
        )
        return type(error)(f"{type(error).__name__}; {where}")


def in_full(error: MelfedError) -> str:
    """Return an error's text with the figures that the clinic may keep to itself."""
    return f"{error}: {error.figures}" if isinstance(error, BudgetError) and error.figures else str(error)


def written(error: Exception) -> str:
    """Return what the clinic's own logs say of an error: all, but of a DataError or a bug, which can name a patient."""
    kind = type(error).__name__
    if isinstance(error, DataError):
        return f"{kind}: see melfed-client doctor"
    if not isinstance(error, MelfedError):
        return f"a bug ({kind}): the process's log says where"
    return in_full(error)
