"""A SuperNode's objects, the pieces of messages, as files: the ClientApp's process reads them, and hands over its own.

Flower keeps them in the SuperNode's memory, and sends each a second time through a request on this machine. Loads
Flower, but no store of it (`melfed.client.flower.object_store`): with it come SQLAlchemy and alembic, for which a
messenger has no use.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from flwr.app import Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_all_nested_objects, get_object_id
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, validate_object_content

from melfed.client.config.clinic import ClinicConfig
from melfed.common.process.object_folder import ObjectFolder

IN_FILE: Final = b"file"
"""What is in memory of an object; no object is that, since each begins with a head."""
LOOK_SECONDS, ASK_SECONDS = 0.01, 2.0
"""How often the ClientApp looks for a file, and after how long it asks the SuperNode for it."""

_log = logging.getLogger(__name__)


def object_folder(config: ClinicConfig) -> ObjectFolder:
    """Return the folder of the objects of a clinic's SuperNode."""
    return ObjectFolder(config.messenger_state / "objects")


def check(object_id: str, content: bytes) -> None:
    """Check an object from outside. Raises ValueError, UnexpectedObjectContentError."""
    if object_id != get_object_id(content):
        raise ValueError(f"Object ID {object_id} does not match content hash")
    validate_object_content(content=content)


def filed(files: ObjectFolder, object_id: str, content: bytes) -> bool:
    """Write an object's file, and tell whether that could be done."""
    try:
        files.put(object_id, content)
    except OSError as error:
        _log.warning("%s: cannot be written: %s; kept in memory", files.path, error.strerror or error)
        return False
    return True


def received(files: ObjectFolder, pull_objects: Callable[..., dict[str, bytes]]) -> Callable[..., dict[str, bytes]]:
    """Return Flower's function that fetches a message's objects from SuperLink; each is a file as soon as it is there.

    It returns `IN_FILE` for these.
    """

    def pull(object_ids: list[str], pull_object_fn: Callable[[str], bytes], **settings: Any) -> dict[str, bytes]:
        def kept(object_id: str) -> bytes:
            content = pull_object_fn(object_id)
            try:
                check(object_id, content)
            except ValueError as error:
                raise ObjectPullError(object_id, str(error)) from None
            return IN_FILE if filed(files, object_id, content) else content

        return pull_objects(object_ids, kept, **settings)

    return pull


def read(
    files: ObjectFolder, make_pull: Callable[..., Callable[[str], bytes]]
) -> Callable[..., Callable[[str], bytes]]:
    """Return Flower's function that makes the ClientApp's way to fetch an object: it waits for the file.

    What comes as no file within some seconds, the SuperNode is asked for.
    """

    def made(*parts: Any) -> Callable[[str], bytes]:
        pull = make_pull(*parts)

        def pull_object(object_id: str) -> bytes:
            end = time.monotonic() + ASK_SECONDS
            while (content := files.read(object_id)) is None:
                if time.monotonic() > end:
                    return pull(object_id)
                time.sleep(LOOK_SECONDS)
            return content

        return pull_object

    return made


def hand(files: ObjectFolder, message: Message) -> None:
    """Leave a message's objects for the SuperNode; what cannot be left goes through requests."""
    try:
        for object_id, part in get_all_nested_objects(cut(message)).items():
            files.hand(object_id, *pieces_of(part))
    except OSError as error:
        _log.warning("%s: cannot be written: %s", files.handed, error.strerror or error)


def cut(message: Message) -> Message:
    """Cut a message's arrays into chunks, as Flower does when it looks at them, without its copies; return it."""
    for record in message.content.array_records.values() if message.has_content() else ():
        for array in record.values():
            whole = memoryview(array.data)
            starts = range(0, len(whole), FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)
            chunks = [ArrayChunk(whole[start : start + FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE]) for start in starts]
            for chunk in chunks:
                digest = hashlib.sha256(head_of(chunk))
                digest.update(chunk.data)
                chunk.__dict__["_object_id"] = digest.hexdigest()
            array.__dict__["_chunks"] = [(chunk.__dict__["_object_id"], chunk) for chunk in chunks]
    return message


def head_of(chunk: ArrayChunk) -> bytes:
    """Return what stands before a chunk's bytes in its object."""
    return f"{ArrayChunk.__qualname__}  {len(chunk.data)}\0".encode()


def pieces_of(part: InflatableObject) -> tuple[bytes | memoryview, ...]:
    """Return the bytes of an object, of a chunk without a copy."""
    return (head_of(part), part.data) if isinstance(part, ArrayChunk) else (part.deflate(),)
