"""A clinic of fake workers behind a real socket, in this process or in one to be killed (`python -m`)."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from melfed.client.models.deliveries import Deliveries
from melfed.client.rpc.peer_credentials import Door
from melfed.client.rpc.remote import RemoteWorker
from melfed.client.worker.grpc_server import Servicer, WorkerServer
from melfed.common.study.protocol import StudyProtocol
from tests.client.fake_worker import STUDY, Clinic


@contextlib.contextmanager
def served(
    folder: Path,
    users: set[int] | None = None,
    refused: list[tuple[int, int]] | None = None,
    deliveries: Deliveries | None = None,
) -> Iterator[Clinic]:
    """Answer on `folder/w.sock`."""
    clinic = Clinic(folder)
    sent = lambda count: clinic.metrics.traffic(sent=count)  # noqa: E731
    server = WorkerServer(Servicer(clinic.service, sent, deliveries=deliveries), folder / "inner.sock")
    server.start()
    refused = [] if refused is None else refused
    users = {os.geteuid()} if users is None else users
    try:
        with Door(folder / "w.sock", folder / "inner.sock", users, lambda uid, pid: refused.append((uid, pid))):
            yield clinic
    finally:
        for worker in clinic.workers.values():
            worker.go.set()
        clinic.service.stop(5)
        server.stop(0.2)


def remote(folder: Path, seconds: float = 20.0, study: StudyProtocol = STUDY, flower_run: int = 7) -> RemoteWorker:
    """The other end of `folder/w.sock`."""
    return RemoteWorker(folder / "w.sock", study.model_dump_json(), seconds, flower_run, "run")


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def main() -> None:
    """Serve until killed; with "held" the first training waits for ever."""
    folder = Path(sys.argv[1])
    with served(folder) as clinic:
        if "held" in sys.argv:
            clinic.ready().go.clear()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            if clinic.ready().begun.wait(60):
                (folder / "begun").touch()
                threading.Event().wait(60)


if __name__ == "__main__":
    main()
