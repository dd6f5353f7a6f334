"""Keeps child processes running: started in order, restarted with back-off, and ended with all that they have started.

Every child leads a session of its own. What is left of it when the child ends is killed, also what has left the session
(`melfed.common.process.launcher` says how it is found). When the supervisor itself is killed, the kernel kills the
children, and a keeper, a small process beside it, kills what those have started. Linux only.

One thread, that of `run`, starts and ends everything: the kernel ends a child together with the *thread* that started
it. Other threads only wait, and put what they have seen into a queue.
"""

import contextlib
import logging
import os
import queue
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from melfed.common.errors import MelfedError
from melfed.common.process import launcher as supervised
from melfed.common.process.child import (
    Backoff,
    Child,
    ChildState,
    ChildStatus,
    Running,
    check_children,
    in_words,
    script,
    start,
)
from melfed.common.process.log_file import ChildLog

__all__ = ["Backoff", "Child", "ChildState", "OnEvent", "Supervisor"]

OnEvent = Callable[[str, str, str], None]

READY_PAUSE = 0.1
"""Seconds between two looks at whether a child is ready."""

KILL_SECONDS = 5.0
"""How long a child may take to end after SIGKILL: one that hangs in the kernel does not end."""

_ORPHANS_SECONDS = 30.0
"""The longest that an orphan that has ended stays in the process table."""

logger = logging.getLogger("melfed.supervisor")


class _News(NamedTuple):
    """Something that another thread has seen or wants."""

    kind: Literal["ended", "ready", "restart", "log", "stop"]
    name: str = ""
    running: Running | None = None
    detail: str = ""


@dataclass
class _Slot:
    """A child and how it is. Times are of the monotonic clock."""

    child: Child
    log: ChildLog | None = None
    running: Running | None = None
    status: ChildStatus = "waiting"
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    reason: str = ""
    started: float = 0.0
    starts: int = 0
    pause: float = 0.0
    due: float | None = 0.0
    unready_at: float | None = None
    kill_at: float | None = None
    again: str = ""

    def become(self, status: ChildStatus) -> None:
        self.status, self.since = status, datetime.now(UTC)

    def send(self, number: int) -> bool:
        if self.running is not None:
            self.running.send(number)
        return self.running is not None

    def state(self) -> ChildState:
        wait = self.due - time.monotonic() if self.due is not None else 0.0
        return ChildState(
            name=self.child.name,
            pid=self.running.pid if self.running is not None else None,
            status=self.status,
            restarts=max(0, self.starts - 1),
            since=self.since,
            next_start=datetime.now(UTC) + timedelta(seconds=wait) if wait > 0 else None,
            reason=self.reason,
        )


class Supervisor:
    """Runs children until it is told to stop. `run` is called once; the other methods from any thread."""

    def __init__(self, children: Sequence[Child], on_event: OnEvent, backoff: Backoff | None = None) -> None:
        """Check the children; nothing is started.

        Args:
            children: in the order in which they are started; they are ended in the reverse order.
            on_event: called with kind, child and detail, in the thread of `run`. Kinds: started, ready, unready (not
                ready in time), ended (to be started again), failed (ended with a final code), killed (SIGTERM did not
                do), stopped, log (it cannot be written). A MelfedError that it raises is logged; the children go on.
            backoff: pauses between restarts.

        Raises:
            ServiceError: a program or a user does not exist.
            ValueError: as `check_children`.
        """
        check_children(children)
        self._slots = {child.name: _Slot(child) for child in children}
        self._on_event, self._backoff = on_event, backoff or Backoff()
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._identity = secrets.token_hex(8)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._orphans: set[int] = set()

    def run(self, stop: threading.Event) -> None:
        """Start the children and keep them running until `stop` is set; on return all of them have ended."""
        threading.Thread(target=self._await_stop, args=(stop,), daemon=True).start()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_adopting_orphans())
            stack.enter_context(self._kept())
            for slot in self._slots.values():
                if slot.child.log is not None:
                    slot.log = stack.enter_context(ChildLog(slot.child.log, self._teller(slot.child.name)))
            try:
                while not stop.is_set():
                    self._start_due()
                    self._await_news()
                    self._end_overdue()
                    self._reap_orphans()
            finally:
                self._stop_all()
                # What has put itself outside of its child, but not outside of this supervisor.
                self._orphans |= supervised.end_family((), self._identity)
                self._reap_orphans()

    def states(self) -> dict[str, ChildState]:
        """Return how every child is, in the order of starting."""
        with self._lock:
            return {name: slot.state() for name, slot in self._slots.items()}

    def signal(self, name: str, number: int) -> bool:
        """Send a signal to a child alone, not to what it has started; return whether it runs. Raises KeyError."""
        with self._lock:
            return self._slots[name].send(number)

    def restart(self, name: str, why: str = "restart was asked for") -> None:
        """Ask for the end of a child and its start at once, also after a final code. Does not wait. Raises KeyError.

        `why` stands in the detail of the "ended" that this brings about.
        """
        self._news.put(_News("restart", self._slots[name].child.name, detail=why))

    # What other threads do.

    def _await_stop(self, stop: threading.Event) -> None:
        stop.wait()
        self._news.put(_News("stop"))

    def _await_end(self, child: Child, running: Running) -> None:
        running.await_end()
        self._news.put(_News("ended", child.name, running))

    def _await_ready(self, child: Child, running: Running, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + child.ready_seconds
        while time.monotonic() < deadline and not running.ended.wait(READY_PAUSE):
            with contextlib.suppress(OSError, MelfedError):
                if ready():
                    self._news.put(_News("ready", child.name, running))
                    return

    def _teller(self, name: str) -> Callable[[str], None]:
        return lambda detail: self._news.put(_News("log", name, detail=detail))

    # What the thread of `run` does.

    def _event(self, kind: str, slot: _Slot, detail: str = "") -> None:
        try:
            self._on_event(kind, slot.child.name, detail)
        except MelfedError as error:  # a full disk, say: no reason to end what works
            logger.error("%s %s %s: not recorded: %s", slot.child.name, kind, detail, error)

    def _may_start(self, slot: _Slot) -> bool:
        free = slot.running is None and slot.due is not None
        return free and all(self._slots[name].status == "ready" for name in slot.child.after)

    def _start_due(self) -> None:
        for slot in self._slots.values():
            if self._may_start(slot) and (slot.due or 0.0) <= time.monotonic():
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        child = slot.child
        slot.started = time.monotonic()
        try:
            running = start(child, self._identity, slot.log.descriptor if slot.log is not None else None)
        except OSError as error:  # no memory, no free process number
            self._put_off(slot, f"cannot be started: {error.strerror}")
            return
        self._tell_keeper(f"+{running.pid}\n")
        with self._lock:
            slot.running, slot.due = running, None
            slot.starts += 1
            slot.become("ready" if child.ready is None else "starting")
        threading.Thread(target=self._await_end, args=(child, running), daemon=True).start()
        self._event("started", slot, f"pid {running.pid}")
        if child.ready is None:
            self._event("ready", slot)
        else:
            slot.unready_at = slot.started + child.ready_seconds
            threading.Thread(target=self._await_ready, args=(child, running, child.ready), daemon=True).start()

    def _await_news(self) -> None:
        """Wait until there is news, and deal with it, or until something is due."""
        now = time.monotonic()
        times: list[float | None] = [now + _ORPHANS_SECONDS]
        for slot in self._slots.values():
            times += [slot.due if self._may_start(slot) else None, slot.unready_at, slot.kill_at]
        with contextlib.suppress(queue.Empty):
            self._hear(self._news.get(timeout=max(0.0, min(at for at in times if at is not None) - now)))

    def _hear(self, news: _News) -> None:
        if news.kind == "stop":
            return
        slot = self._slots[news.name]
        if news.kind == "log":
            self._event("log", slot, news.detail)
        elif news.kind == "restart":
            self._restart(slot, news.detail)
        elif news.running is not slot.running:
            pass  # of a process before the present one
        elif news.kind == "ended":
            self._collect(slot)
        elif slot.unready_at is not None:
            slot.unready_at = None
            with self._lock:
                slot.become("ready")
            self._event("ready", slot)

    def _restart(self, slot: _Slot, why: str) -> None:
        slot.pause = 0.0
        if slot.running is not None:
            slot.again = why
            self._terminate(slot)
        else:
            with self._lock:
                slot.due = time.monotonic()
                slot.become("waiting")

    def _terminate(self, slot: _Slot) -> None:
        slot.send(signal.SIGTERM)
        slot.unready_at = None
        slot.kill_at = slot.kill_at or time.monotonic() + slot.child.stop_seconds

    def _end_overdue(self) -> None:
        for slot in self._slots.values():
            now = time.monotonic()
            if slot.unready_at is not None and slot.unready_at <= now:
                self._event("unready", slot, f"not ready within {slot.child.ready_seconds:g} s")
                self._terminate(slot)
            elif slot.kill_at is not None and slot.kill_at <= now:
                slot.kill_at = None
                self._kill(slot)

    def _kill(self, slot: _Slot) -> None:
        slot.send(signal.SIGKILL)
        self._event("killed", slot, f"did not end within {slot.child.stop_seconds:g} s of SIGTERM")

    def _collect(self, slot: _Slot) -> None:
        """Deal with the end of a child that was not to end, or was to start again."""
        code = self._clear(slot)
        reason = in_words(code)
        again, slot.again = slot.again, ""
        if again:
            with self._lock:
                slot.reason, slot.due = reason, time.monotonic()
                slot.become("waiting")
            self._event("ended", slot, f"{reason}; {again}")
        elif code in slot.child.final_codes:
            with self._lock:
                slot.reason = reason
                slot.become("failed")
            self._event("failed", slot, f"{reason}; is not started again")
        else:
            self._put_off(slot, reason)

    def _put_off(self, slot: _Slot, reason: str) -> None:
        """Start a child again after the pause that is due."""
        lasted = time.monotonic() - slot.started
        slot.pause = self._backoff.after(0.0 if lasted >= self._backoff.reset_after else slot.pause)
        with self._lock:
            slot.reason, slot.due = reason, time.monotonic() + slot.pause
            slot.become("waiting")
        self._event("ended", slot, f"{reason}; next start in {slot.pause:g} s")

    def _clear(self, slot: _Slot) -> int:
        """End what is left of a child that has ended; return its exit code."""
        assert slot.running is not None  # noqa: S101
        pid = slot.running.pid
        # Before its exit status is taken: until then its session's number can belong to nobody else.
        self._orphans |= supervised.end_family({pid}, slot.running.mark)
        with self._lock:
            code, slot.running = slot.running.process.wait(), None
        slot.unready_at = slot.kill_at = None
        self._tell_keeper(f"-{pid}\n")
        return code

    def _stop_all(self) -> None:
        """End the children one after the other, so that each has what it was started after for as long as it runs."""
        for slot in reversed(self._slots.values()):
            if slot.running is not None:
                self._stop(slot, slot.running)
            with self._lock:
                slot.due = None
                slot.become("stopped")
            self._event("stopped", slot, slot.reason)

    def _stop(self, slot: _Slot, running: Running) -> None:
        running.send(signal.SIGTERM)
        if not running.ended.wait(slot.child.stop_seconds):
            self._kill(slot)
            if not running.ended.wait(KILL_SECONDS):
                slot.reason = "hangs in the kernel: could not be ended"
                return
        slot.reason = in_words(self._clear(slot))

    def _reap_orphans(self) -> None:
        """Take the exit status of adopted processes that have ended; they would stay in the process table."""
        sessions = {slot.running.pid for slot in self._slots.values() if slot.running is not None}
        for each in supervised.processes():
            adopted = each.parent == os.getpid() and each.pid not in sessions
            if adopted and (each.session in sessions or supervised.bears(each.pid, self._identity)):
                self._orphans.add(each.pid)
        for pid in list(self._orphans):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._orphans.discard(pid)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Have a keeper, which hears which sessions there are; when it hears no more, it ends them."""
        environment = {name: value for name, value in os.environ.items() if name != supervised.VARIABLE}
        command = [*script("watch"), self._identity]
        with subprocess.Popen(  # noqa: S603 (this project's own)
            command, stdin=subprocess.PIPE, bufsize=0, env=environment, start_new_session=True
        ) as self._keeper:
            yield

    def _tell_keeper(self, line: str) -> None:
        # Without its keeper a supervisor does its work; the kernel still ends the children together with it.
        if self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.write(line.encode())


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    supervised.adopt_orphans(True)
    try:
        yield
    finally:
        supervised.adopt_orphans(False)
