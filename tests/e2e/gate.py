"""A TCP forwarder between a clinic and the coordinator's port, which a test can cut: a network that fails."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self

PIECE = 2**16
SECONDS = 10
ABORT, DRAIN = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # SO_LINGER: close with a reset, or in peace
FILLERS = 4  # more than the kernel keeps waiting for a listener of backlog 0


class Gate:
    """Forwards connections to a port of this machine; open when it is made.

    Args:
        target: the port behind it.

    Attributes:
        port: where it listens. It stays its own while connections are refused.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener, self.port = _bound()
        self._carried: dict[asyncio.Task[None], list[socket.socket]] = {}
        self._fillers: list[socket.socket] = []
        self._accepting: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"gate to {target}", daemon=True)
        self._thread.start()
        self._flowing = asyncio.Event()
        self.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def freeze(self) -> None:
        """Forward nothing and accept nothing, but keep all sockets open: packets are dropped, and nobody is told."""
        self._do(self._freeze())

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay as they are."""
        self._do(self._refuse())

    def reset(self) -> None:
        """End all connections that are there, with a reset."""
        self._do(self._reset())

    def restore(self) -> None:
        """Accept and forward again; what was held up arrives."""
        self._do(self._restore())

    def close(self) -> None:
        """End everything."""
        self._do(self._refuse())
        self._do(self._reset())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()
        self._listener.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(SECONDS)

    async def _freeze(self) -> None:
        self._flowing.clear()
        await self._stop_accepting()
        self._listener.listen(0)
        # Else the kernel itself would answer the next few. What it does not answer is tried again by the other end.
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    async def _refuse(self) -> None:
        await self._stop_accepting()
        self._drop_fillers()
        # It listens no more and is bound still.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RD)

    async def _reset(self) -> None:
        tasks = dict(self._carried)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _restore(self) -> None:
        await self._stop_accepting()
        self._drop_fillers()
        self._listener.listen(128)
        self._flowing.set()
        self._accepting = self._loop.create_task(self._accept())

    async def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    async def _accept(self) -> None:
        while True:
            near, _ = await self._loop.sock_accept(self._listener)
            far = socket.socket()
            for end in (near, far):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._carry(near, far))
            self._carried[task] = [near, far]
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        torn = task.cancelled() or task.exception() is not None
        for end in self._carried.pop(task):
            with contextlib.suppress(OSError):  # a reset at one end is one at the other
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT if torn else DRAIN)
            end.close()

    async def _carry(self, near: socket.socket, far: socket.socket) -> None:
        await self._loop.sock_connect(far, ("127.0.0.1", self._target))
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pump(near, far))
            both.create_task(self._pump(far, near))

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        while data := await self._loop.sock_recv(source, PIECE):
            await self._flowing.wait()
            await self._loop.sock_sendall(sink, data)
        await self._flowing.wait()
        sink.shutdown(socket.SHUT_WR)


def _bound() -> tuple[socket.socket, int]:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # By its number: only then does the kernel keep the port for a socket that has stopped listening.
    listener.bind(("127.0.0.1", port))
    listener.setblocking(False)
    return listener, port
