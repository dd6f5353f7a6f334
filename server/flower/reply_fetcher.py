"""Replies, fetched from SuperLink so that no clinic can hold up, overfill or end the process that conducts a run.

Flower's own grid fetches one reply after the other, however large, waits up to minutes for each part that a clinic has
announced and not sent, believes a message's own word for whom it is from and what it answers, and lets out whatever
comes of bytes that are no message. Here each reply has a thread, which keeps what is parsed within bounds and says in
the reply's place what is wrong with it; sender and request are those that SuperLink has checked.

SuperLink is on this machine: parts are read from its folder, and requests left there. A large array is not read at all:
its parts become one file without a name, and the array is that file in memory, of which there is as much as is looked
at.
"""

import json
import logging
import math
import mmap
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as Header
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid.http_grid import HttpGrid
from httpx import HTTPError

from melfed.common.process.object_folder import ObjectFolder

ROOM_BYTES = 16 * 2**20
"""What a reply may hold beside tensors: histograms, metrics, names."""
MODELS = 2
"""How many times the model that was sent a reply's tensors may hold: whoever sends float64 is told that, not this."""
PART_BYTES = 64
"""What a part costs beyond its content."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks for parts that a clinic has yet to send."""
TRIES = 8
"""How many parts are asked for in vain before a pause."""
LOOK_SECONDS, QUIET_SECONDS = 0.1, 1.0
"""Longest between two looks into a folder, and after how long without a new part SuperLink is asked for one."""
LARGE = 1 << 16
"""Bytes from which on a part of an array stays in its file."""
CHUNK = ArrayChunk.__qualname__.encode() + b" "
DIVIDER = b"\0"
ASK_SECONDS, ASK_AGAIN_SECONDS = 0.3, 1.5
"""Least between two questions for replies, and longest where nothing has come into SuperLink's folder."""
SOON_SECONDS = 0.2
"""What is fetched within them is returned at once, and not by the next look."""

_log = logging.getLogger(__name__)


class UnreadableError(Exception):
    """What a clinic sent is no reply."""


@dataclass(frozen=True)
class FilePart:
    """A chunk of an array that stays in its file: its beginning, and how many bytes it has."""

    head: bytes
    size: int

    def __len__(self) -> int:
        return self.size


Part = bytes | FilePart


class Reception:
    """Flower's grid of a deployment, with replies fetched as the module says.

    Args:
        grid: Flower's.
        folder: of SuperLink's objects; None: all of it goes through requests.
    """

    def __init__(self, grid: HttpGrid, folder: ObjectFolder | None = None) -> None:
        self._grid, self._folder = grid, folder
        self._most = ROOM_BYTES
        self._stamp, self._asked = 0, -math.inf
        self._lock = threading.Lock()
        self._parsing = threading.Lock()
        self._arrived: dict[str, tuple[Message, float]] = {}
        self._fetched: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the grid's own."""
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; their size says how large a reply may be."""
        kept = list(messages)
        for message in kept:
            tensors = sum(record.count_bytes() for record in message.content.array_records.values())
            self._most = max(self._most, ROOM_BYTES + MODELS * tensors)
        if self._folder is None:
            return self._grid.push_messages(kept)
        try:
            for message in kept:
                _hand(self._folder, message)
            return self._grid.push_messages(kept)
        finally:
            self._folder.clear_handed()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return what has arrived whole by now of the replies to these messages; each is returned once."""
        asked = list(message_ids)
        with self._lock:
            # SuperLink hands out a reply once; whoever asks again while it is fetched is told that there is none.
            unknown = [identifier for identifier in asked if identifier not in self._fetched | self._arrived.keys()]
        if unknown and not self._may_have_come():
            unknown = []
        request = PullAppMessagesRequest(message_ids=unknown)
        answer = self._grid._runtime_client.PullMessages(request) if unknown else PullAppMessagesResponse()
        with self._lock:
            self._fetched |= {header.metadata.reply_to_message_id for header in answer.messages_list}
        threads = [
            threading.Thread(target=self._fetch, args=(header, tree), name="reply", daemon=True)
            for header, tree in zip(answer.messages_list, answer.message_object_trees, strict=True)
        ]
        for thread in threads:
            thread.start()
        soon = time.monotonic() + SOON_SECONDS
        for thread in threads:
            thread.join(max(soon - time.monotonic(), 0.0))
        with self._lock:
            found = [self._arrived.pop(identifier)[0] for identifier in asked if identifier in self._arrived]
            # Late ones, which nobody asks for any more.
            self._arrived = {key: value for key, value in self._arrived.items() if value[1] > time.time()}
        return found

    def _may_have_come(self) -> bool:
        """Tell whether SuperLink is to be asked: it costs a request, and a look at its folder nothing."""
        if self._folder is None:
            return True
        stamp, quiet = self._folder.stamp(), time.monotonic() - self._asked
        if quiet < ASK_SECONDS or (stamp == self._stamp and quiet < ASK_AGAIN_SECONDS):
            return False
        self._stamp, self._asked = stamp, time.monotonic()
        return True

    def _fetch(self, header: Header, tree: ObjectTree) -> None:
        metadata = metadata_from_proto(header.metadata)
        expiry = metadata.created_at + metadata.ttl
        try:
            contents = self._contents(tree, expiry)
            # Parsing takes a few times the reply's memory, and waits for nobody.
            with self._parsing:
                message = readable(tree.object_id, contents, self._most, self._folder)
            content, error = (None, message.error) if message.has_error() else (message.content, None)
        except UnreadableError as problem:
            content, error = RecordDict({"refused": ConfigRecord({"reason": str(problem)})}), None
        except Exception as problem:  # noqa: BLE001 (a thread's last word; whatever it is, the clinic is asked again)
            _log.warning("a reply did not arrive whole: %s: %s", type(problem).__name__, problem)
            content, error = None, Error(ErrorCode.MESSAGE_UNAVAILABLE, "its reply did not arrive whole")
        self._forget(tree)
        # Flower has no public way to make a message with given metadata.
        made = cast(Callable[..., Message], Message)(metadata=metadata, content=content, error=error)
        with self._lock:
            self._fetched.discard(metadata.reply_to_message_id)
            self._arrived[metadata.reply_to_message_id] = (made, expiry)

    def _contents(self, tree: ObjectTree, expiry: float) -> dict[str, Part]:
        """Return a reply's parts by their ids, waiting for those that are yet to come.

        Parts are asked for in any order, so that nobody can have SuperLink store much by holding back the first.

        Raises:
            UnreadableError: they are more than a reply may hold.
            ObjectPullError: they do not come.
            HTTPError: SuperLink does not answer.
        """
        pull = make_pull_object_fn_protobuf(self._grid._runtime_client.PullObject, self._grid.node, self._run_id())
        missing = list({part.object_id for part in iterate_object_tree(tree)})
        contents: dict[str, Part] = {}
        size, pause, quiet = len(missing) * PART_BYTES, FIRST_PAUSE, 0.0
        while missing:
            random.shuffle(missing)
            found = {} if self._folder is None else _lying(self._folder, missing, self._most - size)
            if not found and (self._folder is None or quiet >= QUIET_SECONDS):
                found, quiet = dict(_available(pull, missing, self._most - size)), 0.0
            size += sum(map(len, found.values()))
            if size > self._most:
                raise UnreadableError(f"its reply is larger than {self._most // 2**20} MiB")
            contents |= found
            missing = [part for part in missing if part not in found]
            if found:
                pause, quiet = FIRST_PAUSE, 0.0
            elif missing:
                if time.time() > expiry:
                    raise ObjectPullError(missing[0], "it was announced and not sent")
                time.sleep(pause)
                quiet += pause
                pause = min(2 * pause, LONGEST_PAUSE if self._folder is None else LOOK_SECONDS)
        return contents

    def _forget(self, tree: ObjectTree) -> None:
        """Have SuperLink delete a reply's parts."""
        request = ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self._run_id(), message_object_id=tree.object_id
        )
        try:
            self._grid._runtime_client.ConfirmMessageReceived(request)
        except HTTPError as error:
            _log.info("a reply's parts stay in the database until the run ends: %s", type(error).__name__)

    def _run_id(self) -> int:
        return int(self._grid.run.run_id)


def received(grid: Grid, folder: ObjectFolder | None = None) -> Grid:
    """Return the grid, with replies fetched as the module says; one that is not a deployment's stays as it is."""
    return cast(Grid, Reception(grid, folder)) if isinstance(grid, HttpGrid) else grid


def _hand(folder: ObjectFolder, message: Message) -> None:
    """Leave a message's objects for SuperLink, but those that it has; what cannot be left goes through requests."""
    try:
        for identifier, part in get_all_nested_objects(message).items():
            if not folder.has(identifier):
                folder.hand(identifier, part.deflate())
    except OSError as error:
        _log.warning("%s: cannot be written: %s", folder.handed, error.strerror or error)


def _available(pull: Callable[[str], bytes], missing: list[str], most: int) -> dict[str, bytes]:
    """Return those parts that are there; not all, where many are not or they are too large together."""
    found: dict[str, bytes] = {}
    vain = 0
    for part in missing:
        try:
            found[part] = pull(part)
        except ObjectUnavailableError:
            vain += 1
        most -= len(found.get(part, b""))
        if vain == TRIES or most < 0:
            break
    return found


def _lying(folder: ObjectFolder, missing: list[str], most: int) -> dict[str, Part]:
    """Return those parts that lie in the folder; not all, where they are too large together."""
    found: dict[str, Part] = {}
    for name in missing:
        part: Part | None = folder.read(name, LARGE)
        if part is None:
            continue
        if len(part) == LARGE and isinstance(part, bytes):
            large = part.startswith(CHUNK) and folder.size(name)
            part = FilePart(part[:100], large) if large else folder.read(name)
        if part is not None:
            found[name] = part
            most -= len(part)
        if most < 0:
            break
    return found


def readable(identifier: str, contents: dict[str, Part], most: int, folder: ObjectFolder | None = None) -> Message:
    """Return the message that a reply's parts make.

    Args:
        identifier: of the message itself.
        contents: all parts, by their ids; they are used up.
        most: bytes that its arrays may hold.
        folder: where parts lie that are files.

    Raises:
        UnreadableError: they make none.
        OSError: a file of a part is gone, or there is no space for an array's own.
    """
    try:
        size = unfolded(contents)
        message = _inflated(identifier, contents, folder) if size <= most else None
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (bytes from outside, and Flower's parsers)
        raise UnreadableError(f"it sent no reply that can be read ({type(error).__name__})") from None
    if size > most:
        raise UnreadableError(f"its reply is larger than {most // 2**20} MiB")
    if not isinstance(message, Message) or not (message.has_error() or isinstance(message.content, RecordDict)):
        raise UnreadableError("it sent no reply that can be read")
    return message


def _inflated(identifier: str, contents: dict[str, Part], folder: ObjectFolder | None) -> InflatableObject:
    """Return what parts make, with arrays of chunks that are files as files; raises anything."""
    arrays: dict[str, InflatableObject] = {}
    files: dict[int, tuple[bytes, memoryview]] = {}
    for part, content in contents.items():
        if isinstance(content, bytes) and _kind(content)[0] == Array.__qualname__:
            chunks = _chunks(content)
            if folder is not None and any(isinstance(contents[chunk], FilePart) for chunk in chunks):
                about = json.loads(get_object_body(content, Array))
                mark = part.encode()  # Flower makes an array of bytes alone, and records of copies of it
                shape = tuple(about["shape"])
                arrays[part] = Array(dtype=about["dtype"], shape=shape, stype=about["stype"], data=mark)
                files[id(mark)] = mark, _filed([(chunk, contents[chunk]) for chunk in chunks], folder)
    whole = {part: content for part, content in contents.items() if isinstance(content, bytes)}
    contents.clear()
    inflated = inflate_object_from_contents(identifier, whole, objects=arrays)
    if files and isinstance(inflated, Message) and inflated.has_content():
        for record in inflated.content.array_records.values():
            for array in record.values():
                if id(array.data) in files:
                    array.data = files[id(array.data)][1]  # type: ignore[assignment]  # as good for all that we do
    return inflated


def _filed(chunks: list[tuple[str, Part]], folder: ObjectFolder) -> memoryview:
    """Return the bytes of an array, which are a file without a name, made of its chunks."""
    with tempfile.TemporaryFile(dir=folder.path) as file:
        for name, chunk in chunks:
            if isinstance(chunk, bytes):
                file.write(get_object_body(chunk, ArrayChunk))
                continue
            opened = folder.open(name)
            if opened is None:
                raise FileNotFoundError(f"{name}: is gone")
            with opened[0] as source:
                source.seek(chunk.head.index(DIVIDER) + 1, os.SEEK_CUR)
                shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _kind(content: Part) -> tuple[str, list[str], int]:
    return get_object_head_values_from_object_content(content if isinstance(content, bytes) else content.head)


def _chunks(content: bytes) -> list[str]:
    """Return the ids of an array's chunks, in their order, some of them several times."""
    children = _kind(content)[1]
    return [children[index] for index in json.loads(get_object_body(content, Array))["arraychunk_ids"]]


def unfolded(contents: Mapping[str, Part]) -> int:
    """Return the bytes of all arrays once parsed: a chunk may be many times in an array, an array in a record.

    Raises anything where a part is not what it says.
    """
    kinds = {part: (_kind(content)[0], content) for part, content in contents.items()}
    sizes = {
        part: sum(len(contents[chunk]) for chunk in _chunks(content))
        for part, (kind, content) in kinds.items()
        if kind == Array.__qualname__ and isinstance(content, bytes)
    }
    records = [part for part, (kind, _) in kinds.items() if kind == ArrayRecord.__qualname__]
    named = [array for part in records for array in json.loads(_body(contents[part])).values()]
    return sum(sizes[array] for array in named)


def _body(content: Part) -> bytes:
    return get_object_body(content, ArrayRecord) if isinstance(content, bytes) else b""
