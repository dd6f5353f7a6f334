"""Child processes: what a supervisor is told about each, what it tells about it, and how one is started."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from melfed.common.errors import ServiceError
from melfed.common.process import launcher as supervised

ChildStatus = Literal["starting", "ready", "waiting", "stopped", "failed"]

ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Environment that has the C library give large arrays' memory back; else each of many threads keeps some for long."""

_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""The supervisor's own channel to systemd: a child must not report in its name."""


@dataclass(frozen=True)
class Backoff:
    """Seconds from the end of a child to its next start: `first`, then `factor` times as long, up to `largest`.

    A child that ran for `reset_after` seconds begins with `first` again.
    """

    first: float = 1.0
    factor: float = 2.0
    largest: float = 90.0
    reset_after: float = 120.0

    def after(self, pause: float) -> float:
        """Return the pause that follows a pause (0: there was none)."""
        return min(self.largest, max(self.first, pause * self.factor))


@dataclass(frozen=True)
class Child:
    """A process that is to run.

    Attributes:
        name: of this child, unique in its supervisor.
        command: program (looked for in PATH) and arguments.
        environment: added to the supervisor's own.
        user: OS user that it runs as, with that user's groups alone and its HOME; not regarded unless the supervisor is
            root.
        ready: tells whether it does its work by now; called from a thread of its own until it does. It must come back
            within seconds. An OSError or MelfedError counts as no. None: ready as soon as it is started.
        ready_seconds: what is not ready by then is ended and started again.
        log: file for its output, turned over at 10 MB, three old ones kept; None: the supervisor's own output.
        after: children, named earlier, that must be ready before this one is started.
        stop_seconds: from SIGTERM to SIGKILL.
        final_codes: exit codes after which it is not started again.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 120.0
    log: Path | None = None
    after: tuple[str, ...] = ()
    stop_seconds: float = 10.0
    final_codes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ChildState:
    """How a child is.

    Attributes:
        pid: None where it does not run.
        status: "starting" (not ready yet), "ready", "waiting" (to be started), "stopped" (with the supervisor), or
            "failed" (ended with a final code).
        restarts: how often it was started again.
        since: when `status` became what it is, UTC.
        next_start: UTC; None where it does not wait for a time (but for another child, perhaps).
        reason: how it ended last; "" before it ever did.
    """

    name: str
    pid: int | None
    status: ChildStatus
    restarts: int
    since: datetime
    next_start: datetime | None
    reason: str


def check_children(children: Sequence[Child]) -> None:
    """Check that children can be started in this order.

    Raises:
        ServiceError: a program or a user does not exist.
        ValueError: two have one name, or one waits for another that is not named before it.
    """
    names: set[str] = set()
    for child in children:
        if child.name in names or not names.issuperset(child.after):
            raise ValueError(f"child {child.name}: is named twice, or is to start after a child that is not before it")
        names.add(child.name)
        if shutil.which(child.command[0], path=child.environment.get("PATH")) is None:
            raise ServiceError(f"{child.name}: there is no program {child.command[0]}; install it, or mend its path")
        if child.user is not None and os.geteuid() == 0:
            _entry(child)


@dataclass
class Running:
    """A process of a child.

    Attributes:
        mark: what it and its descendants bear in their environment.
        ended: set when it has ended, by whoever waits for it.
    """

    process: "subprocess.Popen[bytes]"
    mark: str
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def pid(self) -> int:
        """Number of the process, its group and its session."""
        return self.process.pid

    def send(self, number: int) -> None:
        """Send a signal to the process, if it has not ended.

        Its number stands for no other process before its exit status is taken.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def await_end(self) -> None:
        """Wait for the end, without taking the exit status; then set `ended`."""
        with contextlib.suppress(ChildProcessError):  # whoever ignores SIGCHLD gets no exit status
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.ended.set()


def start(child: Child, identity: str, output: int | None) -> Running:
    """Start a child; its output goes to a file descriptor (None: to this process's own). Raises OSError."""
    mark = f"{identity}.{secrets.token_hex(4)}"
    user = child.user if child.user is not None and os.geteuid() == 0 else ""
    process = subprocess.Popen(  # noqa: S603 (the commands are this project's own)
        [*script("exec"), str(os.getpid()), user, *child.command],
        env=_environment(child, mark),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    return Running(process, mark)


def script(mode: str) -> tuple[str, ...]:
    """Return the command for `common/process/launcher.py`, free of what the environment tells Python."""
    return sys.executable, "-I", "-S", supervised.__file__, mode


def in_words(code: int) -> str:
    """Return how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _environment(child: Child, mark: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    if child.user is not None and os.geteuid() == 0:
        environment |= {"HOME": _entry(child).pw_dir, "USER": child.user, "LOGNAME": child.user}
    above = environment.get(supervised.VARIABLE)
    return {**environment, **child.environment, supervised.VARIABLE: f"{above}/{mark}" if above else mark}


def _entry(child: Child) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(child.user or "")
    except KeyError:
        raise ServiceError(f"{child.name}: there is no user {child.user}; make it, or name another") from None
