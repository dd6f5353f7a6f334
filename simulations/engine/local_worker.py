"""What a worker process of the local engine does: it answers Flower messages with melfed's ClientApp."""

import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY, ErrorCode

from melfed.client.flower import client_app
from melfed.simulations.engine.attempts import out_of_memory
from melfed.simulations.engine.partition_worker import WorkerOfPartition

LOG = "workers.log"

# The first optimiser of a process imports some eight hundred modules of torch (its compiler), which takes seconds: here
# that is done once, before the fork.
torch.optim.SGD([torch.zeros(1)])


def begin(workspace: Path) -> None:
    """Prepare a new process: it ends with its parent alone, and has nothing to say to the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(workspace / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)


def answer(workspace: Path, message: Message, content: Path, partition: int) -> Message:
    """Answer a message of the coordinator to a clinic.

    Args:
        workspace: the run's.
        message: without its content.
        content: the file with it.
        partition: the clinic's number.

    Returns:
        The ClientApp's reply, or an error that says in a line what it raised.
    """
    message.content = _content(content)
    context = Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config={PARTITION_ID_KEY: partition},
        state=RecordDict(),
        run_config={},
    )
    if time.time() > message.metadata.created_at + message.metadata.ttl:
        return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, "the request has expired"), reply_to=message)
    try:
        reply: Message = _app(workspace)(message, context)
    except Exception as error:  # noqa: BLE001 (told to whoever asked)
        lines = f"{type(error).__name__}: {error}".splitlines()
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, out_of_memory(lines[0])), reply_to=message)
    return reply


@functools.lru_cache(maxsize=1)
def _content(path: Path) -> RecordDict:
    """Read a request's content, which is the same for all clinics of a round; written by this run's own process."""
    content: RecordDict = pickle.loads(path.read_bytes())  # noqa: S301
    return content


@functools.lru_cache(maxsize=1)
def _app(workspace: Path) -> ClientApp:
    return client_app.make_app(WorkerOfPartition(workspace))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
