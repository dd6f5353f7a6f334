"""The last reply that a clinic paid for, kept so that a coordinator that lost it can have it again at no privacy cost.

A coordinator that dies before its checkpoint asks the same question anew. Training again would be a second release and
cost ε a second time; the same bytes, sent again, tell nobody anything new.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from melfed.common.errors import RunError
from melfed.common.tensors import load_tensors, save_tensors

Arrays = Mapping[str, npt.NDArray[np.generic]]
Numbers = dict[str, float | int | str]

_log = logging.getLogger(__name__)


class ReplyStore:
    """One reply in one file, for its owner alone (mode 0600). A later reply replaces it, whole or not at all.

    The folder must exist. What is found may leave only after `Ledger.settle`: a reply is stored before its charge is
    marked as released, and the worker may have died in between.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, key: str, tensors: Arrays, metrics: Mapping[str, float | int | str]) -> None:
        """Keep a reply in place of the last one.

        Args:
            key: of the question, from `reply_key`.
            tensors: by name, of any shape and of a number type.
            metrics: what goes with them.

        Raises:
            StorageError: the file cannot be written; the last reply is still whole.
            ValueError: a metric is not finite.
        """
        save_tensors(self.path, tensors, {"key": key, "metrics": dict(metrics)})

    def find(self, key: str) -> tuple[dict[str, npt.NDArray[np.generic]], Numbers] | None:
        """Return the tensors and metrics of the reply to a question; None where the last reply answers another one.

        A damaged file counts as no reply: the log then has a warning, and the question costs anew.
        """
        if not self.path.exists():
            return None
        try:
            tensors, about = load_tensors(self.path, summed=True)
            metrics = about.get("metrics")
            if not isinstance(metrics, dict):
                raise RunError(f"{self.path}: its content is not what was written")
        except RunError as error:
            _log.warning("the last reply cannot be used again, so the same question will cost anew: %s", error)
            return None
        return (tensors, metrics) if about["key"] == key else None


def keep_newest(files: Iterable[Path], kept: int) -> None:
    """Remove files but the newest few; one that cannot be removed stays."""
    for old in sorted(files, key=lambda path: path.stat().st_mtime_ns)[:-kept]:
        with contextlib.suppress(OSError):
            old.unlink()


def reply_key(study_digest: str, run: str, round_number: int, purpose: str, tensors: Arrays) -> str:
    """Return what names a question to this clinic: SHA-256, 64 hexadecimal digits.

    Two questions have the same key only if nothing differs that the answer depends on: study, run, round, what the
    answer is for, and every bit of the model that came (names, dtypes, shapes, bytes), in whatever order.
    """
    return _digest([study_digest, run, round_number, purpose], tensors)


def _digest(about: object, tensors: Arrays) -> str:
    """Return the SHA-256 of a JSON value and tensors.

    The head says where each part ends, so no two contents share their bytes.
    """
    named = sorted(tensors.items())
    head = json.dumps([about, [(name, array.dtype.str, array.shape) for name, array in named]], sort_keys=True)
    state = hashlib.sha256(f"{len(head)}:{head}".encode())
    for _, array in named:
        # In C order, as `tobytes`, without its copy.
        state.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return state.hexdigest()
