"""What the server asks of clinics and what they answer, in Flower's messages (the other end is `client.app`)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from common.tensors import TensorError, Tensors

POLL_SECONDS = 0.1
MAX_REASON = 300
Content = RecordDict
Channel = Grid  # to the clinics
DESCRIBE = f"{MessageType.QUERY}.describe"
TRAIN = MessageType.TRAIN
EVALUATE = MessageType.EVALUATE


@dataclass(frozen=True)
class Reply:
    """One clinic's answer, or why there is none: `error`, or `declined` where the clinic keeps to its own policy."""

    node: int
    content: RecordDict
    error: str | None
    size: int
    declined: str | None = None

    def arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return a record of arrays by its name; empty where the reply lacks it. Raises TensorError."""
        record = self.content.array_records.get(name, ArrayRecord())
        try:
            arrays = {key: array.numpy() for key, array in record.items()}
        except Exception as error:  # noqa: BLE001 (bytes from outside: NumPy lets its tokenizer's and allocator's out)
            raise TensorError(f"{name} cannot be read: {error}") from None
        # What looks like a zip file is read as an archive.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise TensorError(f"{name} cannot be read: not an array")
        return arrays

    def number(self, record: str, key: str) -> float:
        """Return a metric; NaN where the reply lacks it."""
        value = self.content.metric_records.get(record, MetricRecord()).get(key, math.nan)
        return float(value) if isinstance(value, int | float) else math.nan

    def text(self, record: str, key: str) -> str:
        """Return a setting as text; empty where the reply lacks it."""
        return str(self.content.config_records.get(record, ConfigRecord()).get(key, ""))


def request(round_number: int, digest: str, run: str, tensors: Tensors | None = None) -> RecordDict:
    """Return the content of a request to clinics; `run` is the run's identity, for their ledgers."""
    content = RecordDict({"request": ConfigRecord({"round": round_number, "digest": digest, "run": run})})
    if tensors is not None:
        content["tensors"] = ArrayRecord({name: Array(tensor) for name, tensor in tensors.items()})
    return content


def size(content: RecordDict) -> int:
    """Return the bytes of a message's arrays; the few numbers and names beside them are left out."""
    return sum(record.count_bytes() for record in content.array_records.values())


def one_line(text: str) -> str:
    """Return text from outside as one printable line of at most 300 characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:MAX_REASON]


def ask(
    grid: Grid, kind: str, nodes: Mapping[int, str], content: RecordDict, seconds: float, wait: Callable[[], None]
) -> Iterator[Reply]:
    """Send one request to several nodes and yield their replies as they arrive.

    `wait` passes one polling interval. Nodes that have not answered within `seconds` are yielded last, with an error,
    and so are those that Flower could not send to. Errors that Flower's own infrastructure makes carry no useful
    sender, so replies are matched by the message they answer.
    """
    started = monotonic()
    group = str(content.config_records["request"]["round"])
    waiting: dict[str, int] = {}
    unsent = []
    for node in nodes:
        # Each message holds the same record, so that a large model is in memory once.
        message = Message(content, dst_node_id=node, message_type=kind, group_id=group, ttl=seconds + 60)
        # One at a time: of several, Flower does not always tell which could not be sent.
        if identifier := next(iter(grid.push_messages([message])), None):
            waiting[identifier] = node
        else:
            unsent.append(node)
    while waiting:
        for message in grid.pull_messages(list(waiting)):
            identifier = message.metadata.reply_to_message_id
            if identifier in waiting:
                yield _reply(waiting.pop(identifier), message)
        if monotonic() - started > seconds:
            break
        if waiting:
            wait()
    for node in unsent:
        yield Reply(node, RecordDict(), "Flower could not send the request to it", 0)
    for node in waiting.values():
        yield Reply(node, RecordDict(), f"no answer within {seconds:g} s", 0)


def _reply(node: int, message: Message) -> Reply:
    if message.has_error():
        return Reply(node, RecordDict(), str(message.error.reason or "unknown error"), 0)
    content = message.content
    reasons = [_reason(content, kind) for kind in ("refused", "declined")]
    return Reply(node, content, reasons[0], size(content), reasons[1])


def _reason(content: RecordDict, kind: str) -> str | None:
    record = content.config_records.get(kind)
    return None if record is None else str(record.get("reason") or f"{kind} without a reason")
