"""What a clinic keeps of a run from round to round, for algorithms that need it: on its own disk, and nowhere else.

A round may be asked again: its answer was lost, or the coordinator has gone back to an older checkpoint. So what is
kept is named by the round that it was learnt in, and a round begins from the newest that is older than itself, whatever
was learnt since.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melfed.common.errors import StorageError, StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors, load_tensors, save_tensors

KEPT = 3
"""A coordinator that finds its newest checkpoint damaged goes back by a round, with an answer to the next one open."""
_NAME = re.compile(r"^round-(\d{6})\.safetensors$")


@dataclass(frozen=True)
class KeptState:
    """The kept tensors of one run of one study, a file a round (0600), in a folder of the run's own (0700).

    Attributes:
        folder: of all runs; it is made where it is missing.
        digest: of the study.
    """

    folder: Path
    digest: str

    def before(self, run: str, number: int) -> Tensors:
        """Return what a round (1-based) begins from; empty where nothing was kept before it.

        Raises:
            RunError: the file is damaged.
        """
        older = [path for round_number, path in self._found(run) if round_number < number]
        if not older:
            return {}
        tensors, _ = load_tensors(older[-1], summed=True)
        return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}

    def keep(self, run: str, number: int, tensors: Tensors) -> None:
        """Keep what a round has left, durably, and drop what is of later rounds, and of all but the newest few.

        Raises:
            StorageError: it cannot be written.
        """
        place = self.place(run)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{place}: cannot be made: {error.strerror}; free space and try again") from None
        save_tensors(place / f"round-{number:06d}.safetensors", tensors, {"round": number, "digest": self.digest})
        found = self._found(run)
        stale = [path for round_number, path in found if round_number > number]
        for path in stale + [path for round_number, path in found if round_number <= number][:-KEPT]:
            path.unlink(missing_ok=True)

    def place(self, run: str) -> Path:
        """Return the run's own folder."""
        return self.folder / hashlib.sha256(f"{self.digest} {run}".encode()).hexdigest()[:16]

    def _found(self, run: str) -> list[tuple[int, Path]]:
        place = self.place(run)
        paths = sorted(place.iterdir()) if place.is_dir() else []
        return [(int(named[1]), path) for path in paths if (named := _NAME.match(path.name))]


def require_state(kept: KeptState | None, study: StudyProtocol) -> KeptState:
    """Return where a study's state is kept. Raises StudyError where a clinic has no place for it."""
    if kept is None:
        baseline = study.evaluation.local_baseline
        who = "evaluation.local_baseline" if baseline else f"federation.algorithm {study.federation.algorithm}"
        raise StudyError(f"{who} keeps state at the clinic, and this worker has no folder")
    return kept
