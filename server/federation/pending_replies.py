"""Answers to the open round, kept on disk before they count: a ServerApp that is killed takes them up from there.

A clinic that has answered is then not asked again, and no answer counts twice: what is kept is of one round of one
study, one file a clinic, and all of it is dropped once the round's checkpoint is written. A file that is damaged, or of
another round, is as good as none: its clinic is asked again, and answers from what it has stored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from melfed.common.errors import DataError, RunError, StorageError
from melfed.common.messages import TENSORS, VALIDATION
from melfed.common.metrics.noisy_histogram import histogram_from_arrays
from melfed.common.study.protocol import Section
from melfed.common.tensors import (
    TensorError,
    Tensors,
    check_tensors,
    group_of,
    in_group,
    load_tensors,
    save_tensors,
    shapes,
)
from melfed.server.federation.reply_checks import Update
from melfed.server.runs.names import clinic_file
from melfed.server.runs.outcome import ReportedAccount

Arrays = dict[str, npt.NDArray[np.generic]]


class _Header(Section):
    """What the file says beside tensors and histogram."""

    clinic: str
    round: int
    digest: str
    weight: float
    loss: float
    account: ReportedAccount | None
    size: int


@dataclass(frozen=True)
class Pending:
    """The folder `RUN/round`."""

    folder: Path
    digest: str

    def keep(self, number: int, clinic: str, update: Update) -> None:
        """Write one clinic's update, durably.

        Raises:
            StorageError: it cannot be written; then it must not count.
        """
        arrays: Arrays = in_group(TENSORS, update.tensors)
        if update.validation is not None:
            arrays |= in_group(VALIDATION, update.validation.to_arrays())
        header = _Header(
            clinic=clinic,
            round=number,
            digest=self.digest,
            weight=update.weight,
            loss=update.loss,
            account=update.account,
            size=update.size,
        )
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be made: {error.strerror}; free space and try again") from None
        save_tensors(self.folder / clinic_file(clinic), arrays, {"header": header.model_dump_json()})

    def kept(self, number: int, model: Tensors) -> dict[str, Update]:
        """Return the updates of a round that were kept, by clinic, and drop whatever else is there.

        Args:
            number: the round that is open.
            model: the global model that its clinics were sent; says which shapes the tensors have.
        """
        found = {}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            read = self._read(path, number, model)
            # Those that are read are files still, in memory as far as they are looked at.
            if read is None:
                path.unlink(missing_ok=True)
            else:
                found[read[0]] = read[1]
        return found

    def clear(self) -> None:
        """Drop everything: the round's checkpoint is written."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            path.unlink(missing_ok=True)

    def _read(self, path: Path, number: int, model: Tensors) -> tuple[str, Update] | None:
        try:
            arrays, metadata = load_tensors(path, summed=True, mapped=True)
            header = _Header.model_validate_json(str(metadata.get("header")))
            tensors = group_of(TENSORS, arrays)
            check_tensors(tensors, shapes(model))
            scores = group_of(VALIDATION, arrays)
            validation = histogram_from_arrays(scores) if scores else None
        except (RunError, ValidationError, TensorError, DataError):
            return None
        theirs = (header.round, header.digest, clinic_file(header.clinic))
        if theirs != (number, self.digest, path.name):
            return None
        floats = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
        update = Update(floats, header.weight, header.loss, validation, header.account, header.size)
        return header.clinic, update
