"""SuperLink's objects with the large ones, the pieces of arrays, as files beside its database.

Flower keeps each piece as a blob of SQLite: it is written to the journal and again to the database, under the one lock
that all writes wait for, and the database stays as large as it ever was. Here the database says what there is and who
needs it, as before, and a piece is a file for as long as its row is there.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

LARGE: Final = 1 << 16
"""Bytes from which on an object is a file."""
IN_FILE: Final = b"file"
"""What the database holds of such an object; no object is that, since each begins with a head."""


class FileObjectStore(SqlObjectStore):
    """Flower's object store of a database, with large objects in the folder `objects` beside it (0700, made here).

    Files are written whole and then renamed, and are not flushed to the disk: what a power failure takes has no content
    any more, and whoever waits for it asks for the message again.
    """

    def __init__(self, database_path: str, verify: bool = True) -> None:
        super().__init__(database_path, verify=False)  # what it would check is in a file then
        self.checked = verify
        self.folder = Path(database_path).parent / "objects"

    def initialize(self, *arguments: object, **settings: object) -> list[str]:
        """Open the database, and drop files that it knows nothing of: a process that was killed has left them."""
        opened: list[str] = super().initialize(*arguments, **settings)  # type: ignore[arg-type]
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in self:
                path.unlink(missing_ok=True)
        return opened

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced.

        Raises:
            ValueError: its id is not its SHA-256.
            UnexpectedObjectContentError: it is no object.
            NoObjectInStoreError: it was not announced.
        """
        if self.checked:
            if object_id != get_object_id(object_content):
                raise ValueError(f"Object ID {object_id} does not match content hash")
            validate_object_content(content=object_content)
        if len(object_content) < LARGE:
            super().put(object_id, object_content)
            return
        path = self.folder / object_id
        draft = path.with_name(f"{object_id}.{os.getpid()}.{id(object_content)}")
        try:
            draft.write_bytes(object_content)
            draft.replace(path)
            super().put(object_id, IN_FILE)
        except BaseException:
            draft.unlink(missing_ok=True)
            if object_id not in self:
                path.unlink(missing_ok=True)
            raise

    def get(self, object_id: str) -> bytes | None:
        """Return an object; empty where its content is not there, None where it was not announced."""
        content: bytes | None = super().get(object_id)
        if content != IN_FILE:
            return content
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / object_id).read_bytes()
        return b""

    def delete(self, object_id: str) -> None:
        """Delete an object that nobody needs, and what it alone needs."""
        super().delete(object_id)
        path = self.folder / object_id
        if path.exists() and object_id not in self:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything."""
        super().clear()
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
