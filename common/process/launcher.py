"""What `melfed.common.process.supervisor` starts beside its children: the launcher of a child, and the keeper that ends
them all.

Run as a script, by its path, since a child's folder and environment are not this project's:

    supervised.py exec PARENT USER COMMAND…   become COMMAND, as USER ('' to stay who we are); die when PARENT dies
    supervised.py watch MARK                  when stdin ends, end all sessions that it named, and all that bear MARK

It loads nothing but the standard library, so it starts in some 20 ms. The kernel can end a child together with its
parent, but not what the child has started; so a keeper, which has nothing to do but wait, ends those.

A process belongs to a child if it is in the child's session, or if its environment says so (`MELFED_CHILD`): the first
finds those that write over their environment (nginx), the second those that have left the session.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MELFED_CHILD"
"""Names the children that a process descends from, joined by '/': a supervisor may be another one's child."""

END_SECONDS = 5.0
"""How long to wait for processes that were sent SIGKILL: one that hangs in the kernel does not end."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_SCAN_PAUSE = 0.005
_NOT_FOUND, _NOT_EXECUTABLE, _LATE = 127, 126, 125
_DEAD = frozenset("ZXx")


@dataclass(frozen=True)
class Process:
    """A line of the kernel's process table: its state is a letter, 'Z' for ended but not yet waited for."""

    pid: int
    state: str
    parent: int
    session: int


def processes() -> Iterator[Process]:
    """Yield all processes that are to be seen."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            process = _read(int(entry.name))
            if process is not None:
                yield process


def family(sessions: Collection[int], mark: str) -> set[int]:
    """Return the processes that are in one of the sessions or bear the mark, without those that have ended."""
    return {each.pid for each in processes() if _belongs(each, sessions, mark)}


def end_family(sessions: Collection[int], mark: str) -> set[int]:
    """Kill these processes, and what they start meanwhile; return them. Waits for their end, `END_SECONDS` at most."""
    killed: set[int] = set()
    deadline = time.monotonic() + END_SECONDS
    while members := family(sessions, mark):
        for pid in members:
            _kill(pid, sessions, mark)
        killed |= members
        if time.monotonic() > deadline:
            break
        time.sleep(_SCAN_PAUSE)
    return killed


def bears(pid: int, mark: str) -> bool:
    """Whether a process descends from a marked child, as far as its environment tells."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    prefix = f"{VARIABLE}=".encode()
    found = (
        entry[len(prefix) :].decode(errors="replace") for entry in content.split(b"\0") if entry.startswith(prefix)
    )
    return any(part == mark or part.startswith(f"{mark}.") for value in found for part in value.split("/"))


def adopt_orphans(adopt: bool) -> None:
    """Become, or stop being, the parent of all descendants that lose theirs. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def _belongs(process: Process, sessions: Collection[int], mark: str) -> bool:
    alive = process.state not in _DEAD and process.pid != os.getpid()
    return alive and (process.session in sessions or bears(process.pid, mark))


def _kill(pid: int, sessions: Collection[int], mark: str) -> None:
    """Kill a process unless its number has come to stand for another one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            process = _read(pid)
            if process is not None and _belongs(process, sessions, mark):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    state, parent, _, session = text.rpartition(")")[2].split()[:4]
    return Process(pid, state, int(parent), int(session))


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def end_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when its parent ends; False where that has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _launch(parent: int, user: str, command: list[str]) -> int:
    """Become a command; returns only where that fails."""
    if user:
        _become(user)
    # After the change of user, which clears it.
    if not end_with_parent(parent):
        return _LATE
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(command[0], command)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        print(f"{command[0]}: cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE


def _become(user: str) -> None:
    """Take on a user for good, with its own groups alone."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _watch(mark: str) -> int:
    """Read '+SESSION' and '-SESSION' lines; when they end, so has the supervisor: end what is left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: set[int] = set()
    for line in sys.stdin:
        change = sessions.add if line[0] == "+" else sessions.discard
        change(int(line[1:]))
    end_family(sessions, mark)
    return 0


if __name__ == "__main__":
    sys.exit(_watch(sys.argv[2]) if sys.argv[1] == "watch" else _launch(int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
