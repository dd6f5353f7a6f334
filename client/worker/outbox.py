"""Answers on disk before they are sent: a message that is repeated has the same answer, at no cost, after a crash too.

Each answer is one file of `melfed.client.worker.reply_store.ReplyStore` (mode 0600, whole or not at all, checked by its
digest). The guard keeps what was paid for in such files too, one a charge: there it stands between `spent` and
`released` in the ledger, and cannot wait for the rest of the message. What is kept here is the whole message.
"""

import contextlib
import logging
from pathlib import Path

from google.protobuf import json_format

from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.codec import Packed
from melfed.client.worker.reply_store import ReplyStore, keep_newest
from melfed.common.errors import StorageError

KEPT = 4
"""Answers of a kind: two studies, each with the round that it is in and the one before."""

_log = logging.getLogger(__name__)


class Outbox:
    """The newest answers of each kind, in a folder of its own (0700, made here).

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder, self.kept = folder, kept
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made: {error.strerror or error}") from error
        for left in folder.glob(".*.safetensors.*"):
            # A worker that was killed while it wrote has left it: none but this one writes here.
            with contextlib.suppress(OSError):
                left.unlink()

    def find(self, kind: str, key: str) -> Packed | None:
        """Return the answer to a question by its key (`melfed.client.worker.reply_store.reply_key`); None without one,
        or a damaged one.

        Args:
            kind: `train` or `evaluate`.
            key: 64 hexadecimal digits.
        """
        found = ReplyStore(self._path(kind, key)).find(key)
        if found is None:
            return None
        arrays, about = found
        try:
            return Packed(json_format.Parse(str(about.get("head")), pb.Answer()), arrays)
        except json_format.ParseError as error:
            # Whole, but of another version of melfed.
            _log.warning("a stored answer cannot be used: %s", error)
            return None

    def save(self, kind: str, key: str, answer: Packed) -> None:
        """Keep an answer, and of its kind the newest few others.

        Raises:
            StorageError: it cannot be written; the others are still there.
        """
        head = json_format.MessageToJson(answer.head, indent=None)
        ReplyStore(self._path(kind, key)).save(key, answer.arrays, {"head": head})
        keep_newest(self.folder.glob(f"{kind}-*.safetensors"), self.kept)

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{key[:32]}.safetensors"
