"""Flower's store of a SuperNode's objects, the pieces of messages, with the objects themselves as files.

Loads Flower; import it late.
"""

from collections.abc import Iterable

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from melfed.client.flower.object_files import IN_FILE, check, filed
from melfed.common.process.object_folder import ObjectFolder


class FileObjectStore(InMemoryObjectStore):
    """Flower's object store in memory, with the objects themselves in a folder; what cannot be written stays in memory.

    Args:
        files: the folder; what an earlier SuperNode has left in it is removed.
    """

    def __init__(self, files: ObjectFolder) -> None:
        super().__init__(verify=False)
        self.files = files
        files.make()
        files.keep(lambda _: False)
        files.clear_handed()

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Announce objects; return those that are yet to come, without what was handed over already."""
        missing = dict.fromkeys(super().preregister(run_id, object_tree))
        for object_id in [name for name in missing if self.files.take(name)]:
            super().put(object_id, IN_FILE)
            del missing[object_id]
        return list(missing)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced. Raises as Flower's; ValueError where its id is not its SHA-256."""
        if object_content == IN_FILE and self.files.has(object_id):  # checked when it was received
            super().put(object_id, IN_FILE)
            return
        check(object_id, object_content)
        super().put(object_id, IN_FILE if filed(self.files, object_id, object_content) else object_content)

    def get(self, object_id: str) -> bytes | None:
        """Return an object; empty where its content is not there, None where it was not announced."""
        content: bytes | None = super().get(object_id)
        return content if content != IN_FILE else self.files.read(object_id) or b""

    def holds(self, object_ids: Iterable[str]) -> bool:
        """Tell whether all of these are there."""
        with self.lock_store:
            entries = [self.store.get(object_id) for object_id in object_ids]
            return all(entry is not None and entry.is_available for entry in entries)

    def delete(self, object_id: str) -> None:
        """Delete an object that nobody needs, and what it alone needs."""
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store:
                self.files.drop(object_id)

    def clear(self) -> None:
        """Delete everything."""
        super().clear()
        self.files.keep(lambda _: False)
