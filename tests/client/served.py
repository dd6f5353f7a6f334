"""A clinic of fake workers behind a real socket, in this process or in one to be killed (`python -m`)."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from melfed.client.rpc.peer_credentials import Door
from melfed.client.worker.grpc_server import Servicer, WorkerServer
from tests.client.fake_worker import Clinic


@contextlib.contextmanager
def served(
    folder: Path, users: set[int] | None = None, refused: list[tuple[int, int]] | None = None
) -> Iterator[Clinic]:
    """Answer on `folder/w.sock`."""
    clinic = Clinic(folder)
    sent = lambda count: clinic.metrics.traffic(sent=count)  # noqa: E731
    server = WorkerServer(Servicer(clinic.service, sent), folder / "inner.sock")
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
