"""SuperLink's objects, the pieces of messages, as files beside its database.

Flower keeps each piece as a blob of SQLite: it is written to the journal and again to the database, under the one lock
that all writes wait for, and the database stays as large as it ever was. Here the database says what there is and who
needs it, as before, and a piece is a file for as long as its row is there. The ServerApp, on the same machine, reads
the files and hands over its own (`melfed.common.process.object_folder`); clinics are sent them by the edge.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from melfed.common.process.object_folder import ObjectFolder

IN_FILE: Final = b"file"
"""What the database holds of an object; no object is that, since each begins with a head."""

_pointing: ContextVar[bool] = ContextVar("pointing", default=False)
_staged: ContextVar[tuple[str, Path | None]] = ContextVar("staged", default=("", None))


def object_folder(state: Path) -> ObjectFolder:
    """Return the folder of SuperLink's objects in the server's state folder."""
    return ObjectFolder(state / "objects", answer_head)


def answer_head(size: int) -> bytes:
    """Return what stands before an object of so many bytes in Flower's answer to who pulls it (and nothing after it).

    Files begin with it, so that the edge can send them as they are.
    """
    field = (PullObjectResponse.OBJECT_CONTENT_FIELD_NUMBER << 3) | 2  # protobuf: bytes, with their length before them
    length = b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    answer = PullObjectResponse(object_found=True, object_available=True)
    return answer.SerializeToString(deterministic=True) + bytes([field]) + length + bytes([size])


class FileObjectStore(SqlObjectStore):
    """Flower's object store of a database, with the objects themselves in a folder beside it (0700, made here)."""

    def __init__(self, database_path: str, verify: bool = True) -> None:
        super().__init__(database_path, verify=False)  # what it would check is in a file then
        self.checked = verify
        self.files = object_folder(Path(database_path).parent)

    def initialize(self, *arguments: object, **settings: object) -> list[str]:
        """Open the database, and drop files that it knows nothing of: a process that was killed has left them."""
        opened: list[str] = super().initialize(*arguments, **settings)  # type: ignore[arg-type]
        self.files.make()
        self.files.keep(self.__contains__)
        return opened

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Announce objects; return those that are yet to come, without what was handed over already."""
        with self._mutation_session():
            missing = dict.fromkeys(super().preregister(run_id, object_tree))
            for object_id in [name for name in missing if self.files.take(name)]:
                super().put(object_id, IN_FILE)
                del missing[object_id]
        return list(missing)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced.

        Raises:
            ValueError: its id is not its SHA-256.
            UnexpectedObjectContentError: it is no object.
            NoObjectInStoreError: it was not announced.
            OSError: there is no space for its file.
        """
        staged, draft = _staged.get()
        if draft is None or staged != object_id:
            draft = self._draft(object_id, object_content)
        try:
            super().put(object_id, IN_FILE)
            draft.replace(self.files.path / object_id)
        finally:
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def staged(self, object_id: str, object_content: bytes) -> Iterator[None]:
        """Check and write an object now that may be `put` within it, so that no lock is held for that.

        Raises as `put`.
        """
        draft = self._draft(object_id, object_content)
        token = _staged.set((object_id, draft))
        try:
            yield
        finally:
            _staged.reset(token)
            draft.unlink(missing_ok=True)

    def _draft(self, object_id: str, object_content: bytes) -> Path:
        if self.checked:
            if object_id != get_object_id(object_content):
                raise ValueError(f"Object ID {object_id} does not match content hash")
            validate_object_content(content=object_content)
        return self.files.draft(object_id, object_content)

    @contextlib.contextmanager
    def pointing(self) -> Iterator[None]:
        """Within it, `get` returns `IN_FILE` in place of what is there."""
        token = _pointing.set(True)
        try:
            yield
        finally:
            _pointing.reset(token)

    def get(self, object_id: str) -> bytes | None:
        """Return an object; empty where its content is not there, None where it was not announced."""
        content: bytes | None = super().get(object_id)
        if content != IN_FILE:
            return content
        if _pointing.get():
            return IN_FILE if self.files.size(object_id) is not None else b""
        return self.files.read(object_id) or b""

    def delete(self, object_id: str) -> None:
        """Delete an object that nobody needs, and what it alone needs."""
        # In one transaction: who announces the same object meanwhile comes before or after both.
        with self._mutation_session():
            super().delete(object_id)
            if object_id not in self:
                self.files.drop(object_id)

    def clear(self) -> None:
        """Delete everything."""
        super().clear()
        self.files.keep(lambda _: False)
