"""The door of the worker: who may connect to its socket is asked of the kernel.

gRPC cannot tell who is at the other end of a Unix socket. So the public socket is this module's: it accepts, asks the
kernel for the peer's user (SO_PEERCRED), and passes the bytes of those that may come in on to gRPC's own socket, which
lies in a folder that only the worker's user can enter. The mode of the public socket keeps most others out before.
"""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Literal

from melfed.common.errors import ServiceError

MOST_CONNECTIONS = 32
"""At a time: a messenger needs one a message."""
BUFFER_BYTES = 1 << 18
LONGEST_PATH: Final = 107
"""Of a Unix socket, in bytes: a limit of Linux."""
REFUSAL: Final = b"melfed: not you\n"
"""What is said to a peer that may not come in, so that it need not guess. A worker's gRPC begins otherwise."""
QUIET_SECONDS = 60.0
"""A refused messenger tries several times a second: of one user, no more is told within this time."""
_CREDENTIALS = struct.Struct("3i")

Refused = Callable[[int, int], None]
Heard = Literal["answers", "refuses", "silent"]


def knock(public: Path, seconds: float = 1.0) -> Heard:
    """Tell whether a worker answers this user at its socket, without asking it anything.

    Raises:
        PermissionError: the folder's or the socket's own mode keeps this user out.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(seconds)
            line.connect(str(public))
            # A gRPC server speaks first (HTTP/2's SETTINGS).
            first = line.recv(len(REFUSAL))
    except PermissionError:
        raise
    except OSError:
        return "silent"
    return "silent" if not first else "refuses" if first == REFUSAL else "answers"


class Refusals:
    """Tells of refused peers: of each user at once, and then once in a while with how many tries there were."""

    def __init__(self, tell: Callable[[int, int, int], None]) -> None:
        """Take what is told the user id, the process id of the last try, and the tries since it was told before."""
        self._tell, self._mutex = tell, threading.Lock()
        self._untold: dict[int, int] = {}
        self._next: dict[int, float] = {}

    def __call__(self, uid: int, pid: int) -> None:
        """Note a try."""
        with self._mutex:
            count, now = self._untold.get(uid, 0) + 1, time.monotonic()
            quiet = now < self._next.get(uid, now)
            self._untold[uid] = count if quiet else 0
            if not quiet:
                self._next[uid] = now + QUIET_SECONDS
        if not quiet:
            self._tell(uid, pid, count)


class Door:
    """Accepts connections on the public socket and passes those of certain users on. A context manager."""

    def __init__(self, public: Path, inner: Path, users: Collection[int], refused: Refused) -> None:
        """Take what it needs; nothing is opened yet.

        Args:
            public: where it listens, mode 0660 and of its folder's group; what is there is replaced.
            inner: gRPC's socket.
            users: ids of the OS users that may connect.
            refused: called with the user id and process id of a peer that may not.
        """
        self.public, self.inner = public, inner
        self.users, self.refused = frozenset(users), refused
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._mutex = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()

    def __enter__(self) -> "Door":
        """Listen.

        Raises:
            ServiceError: the socket cannot be made.
        """
        check_path(self.public)
        try:
            self.public.unlink(missing_ok=True)
            self._listener.bind(str(self.public))
            # Nobody can connect before it listens.
            self.public.chmod(0o660)
            with contextlib.suppress(PermissionError):
                os.chown(self.public, -1, self.public.parent.stat().st_gid)
            self._listener.listen(MOST_CONNECTIONS)
        except OSError as error:
            self._listener.close()
            raise ServiceError(f"{self.public}: the socket cannot be made: {error.strerror or error}") from error
        threading.Thread(target=self._accept, name="door", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._closed.set()
            open_now = list(self._open)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.public.unlink(missing_ok=True)
        for connection in open_now:
            _end(connection)

    def _accept(self) -> None:
        while not self._closed.is_set():
            self._places.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError:
                self._places.release()
                if self._closed.is_set():
                    return
                # Out of file descriptors: some come back when a connection ends.
                self._closed.wait(0.1)
                continue
            threading.Thread(target=self._serve, args=(connection,), name="guest", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                pid, uid, _ = _CREDENTIALS.unpack(
                    connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
                if uid in self.users:
                    self._pass_on(connection)
                else:
                    # Written down first: whoever reads the refusal may look for it at once.
                    self.refused(uid, pid)
                    with contextlib.suppress(OSError):
                        connection.sendall(REFUSAL)
        finally:
            self._places.release()

    def _pass_on(self, guest: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as host:
            try:
                host.connect(str(self.inner))
            except OSError:
                return
            with self._mutex:
                if self._closed.is_set():
                    return
                self._open |= {guest, host}
            back = threading.Thread(target=_pump, args=(host, guest), name="answers", daemon=True)
            back.start()
            _pump(guest, host)
            back.join()
            with self._mutex:
                self._open -= {guest, host}


def check_path(path: Path) -> None:
    """Raise ServiceError where a path is too long for a Unix socket."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ServiceError(
            f"{path}: a socket's path has at most {LONGEST_PATH} bytes; move the kit, or name a shorter state"
        )


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass bytes on until either end is closed; then tell the other."""
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with contextlib.suppress(OSError):
        while count := source.recv_into(buffer):
            sink.sendall(view[:count])
    # gRPC never closes one half alone.
    _end(source)
    _end(sink)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
