"""A disk in memory that can be killed, fail, or lose power in any of its operations."""

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

from melfed.client.ledger.disk import Disk


class Crash(BaseException):
    """The process is dead: no handler of errors sees this."""


class Node:
    """A file's content: what is on the disk for sure, and the operations since, which are only in memory."""

    def __init__(self) -> None:
        self.durable = b""
        self.pending: list[Callable[[bytes], bytes]] = []

    @property
    def content(self) -> bytes:
        content = self.durable
        for operation in self.pending:
            content = operation(content)
        return content


class FakeLock:
    """One process at a time is what the tests of crashes are about."""

    def close(self) -> None: ...


class FakeDisk(Disk):
    """What was not synced may be lost in part after a loss of power; names are as volatile as content.

    Args:
        random: chooses which part of an operation happens, and what is lost.
    """

    def __init__(self, random: Random | None = None) -> None:
        self.random = random or Random(0)
        self.names: dict[Path, Node] = {}
        self.durable_names: dict[Path, Node] = {}
        self.pending_names: list[Callable[[dict[Path, Node]], None]] = []
        self.fuse: int | None = None
        self.fault = "kill"
        self.dead = False
        self.operations = 0

    def restart(self, power_lost: bool) -> None:
        """Start anew after a crash; a process that is merely killed leaves all that it wrote to the system."""
        self.dead, self.fuse = False, None
        if not power_lost:
            return
        for operation in self.pending_names:
            if self.random.random() < 0.5:
                operation(self.durable_names)
        for node in {id(node): node for node in [*self.durable_names.values(), *self.names.values()]}.values():
            kept = self.random.randint(0, len(node.pending))
            for operation in node.pending[:kept]:
                node.durable = operation(node.durable)
            if kept < len(node.pending) and self.random.random() < 0.5:
                node.durable = self._torn(node.durable, node.pending[kept](node.durable))
            node.pending = []
        self.names, self.pending_names = dict(self.durable_names), []

    def _torn(self, before: bytes, after: bytes) -> bytes:
        """Part of an operation on a content: a prefix of what is new, and pages that hold zeros."""
        if before.startswith(after):
            return before  # a file is shortened, or it is not
        if not after.startswith(before):
            return after[: self.random.randint(0, len(after))]
        new = after[len(before) :]
        cut = self.random.randint(0, len(new))
        forms = (new[:cut], new[:cut] + bytes(len(new) - cut), bytes(cut) + new[cut:])
        return before + self.random.choice(forms)

    def _do(self, whole: Callable[[], None], part: Callable[[], None] = lambda: None) -> None:
        if self.dead:
            raise Crash
        self.operations += 1
        if self.fuse is None or self.fuse > 0:
            self.fuse = None if self.fuse is None else self.fuse - 1
            whole()
            return
        self.fuse = None
        self.random.choice((lambda: None, part, whole))()
        if self.fault == "kill":
            self.dead = True
            raise Crash
        raise OSError(errno.ENOSPC, "No space left on device")

    def _change(self, node: Node, operation: Callable[[bytes], bytes]) -> None:
        def part() -> None:
            before = node.content
            after = operation(before)
            new = after[len(before) :] if after.startswith(before) else after
            torn = (before if after.startswith(before) else b"") + new[: self.random.randint(0, len(new))]
            node.pending.append(lambda _: torn)

        self._do(lambda: node.pending.append(operation), part)

    def _name(self, operation: Callable[[dict[Path, Node]], None]) -> None:
        def whole() -> None:
            operation(self.names)
            self.pending_names.append(operation)

        self._do(whole)

    def make_folder(self, folder: Path) -> None: ...

    def read(self, path: Path) -> bytes | None:
        if self.dead:
            raise Crash
        return self.names[path].content if path in self.names else None

    def size(self, path: Path) -> int:
        return len(self.names[path].content)

    def append(self, path: Path, data: bytes) -> None:
        self._change(self.names[path], lambda content: content + data)

    def write(self, path: Path, data: bytes) -> None:
        if path not in self.names:
            node = Node()
            self._name(lambda names: names.__setitem__(path, node))
        node = self.names[path]
        self._change(node, lambda _: data)

    def truncate(self, path: Path, size: int) -> None:
        self._do(lambda: self.names[path].pending.append(lambda content: content[:size]))

    def sync(self, path: Path) -> None:
        def whole() -> None:
            node = self.names[path]
            node.durable, node.pending = node.content, []

        self._do(whole)

    def rename(self, source: Path, target: Path) -> None:
        node = self.names[source]

        def operation(names: dict[Path, Node]) -> None:
            names[target] = node
            names.pop(source, None)

        self._name(operation)

    def sync_folder(self, folder: Path) -> None:
        def whole() -> None:
            self.durable_names, self.pending_names = dict(self.names), []

        self._do(whole)

    def lock(self, path: Path, seconds: float) -> FakeLock:  # type: ignore[override]
        if path not in self.names:
            node = Node()
            self._name(lambda names: names.__setitem__(path, node))
        return FakeLock()
