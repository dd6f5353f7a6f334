"""Memory of the processes below a daemon or of a command, from Linux's /proc."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MEGABYTE = 1e6
LOOK_SECONDS = 0.5
"""Between two looks at the memory of a command."""
_ROLE = re.compile(r"-m melfed\.(client|server)\.cli\.main (\w+)")
_START = re.compile(r"melfed-(client|server)\S* start")


@dataclass(frozen=True)
class Memory:
    """Of one process, bytes: resident; the same with shared pages divided among those who share them; its peak."""

    resident: int
    proportional: int
    peak: int


def role(command: str, parent: str) -> str:
    """Return what a process is called in the tables.

    Args:
        command: its command line.
        parent: the role of its parent; empty where that is none of ours.
    """
    if command.startswith("nginx:"):
        return "server: nginx " + ("master" if "master" in command else "workers")
    if "multiprocessing.spawn" in command:
        return f"{parent}, aside"
    if found := _ROLE.search(command):
        name = f"{found[1]}: {found[2]}"
        return "client: ClientApp" if name == parent == "client: messenger" else name
    if found := _START.search(command):
        return f"{found[1]}: supervisor"
    return f"{parent.partition(':')[0] or 'other'}: keeper" if "supervised.py watch" in command else ""


def roles(roots: Iterable[int]) -> dict[int, str]:
    """Return the roles of some processes and all below them."""
    found: dict[int, str] = {}
    queue = [(root, "") for root in roots]
    while queue:
        pid, parent = queue.pop()
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found[pid] = role(" ".join(process.cmdline()), parent) or parent
            queue += [(child.pid, found[pid]) for child in process.children()]
    return found


def memory(pid: int) -> Memory | None:
    """Return a process's memory; None where it has ended."""
    with contextlib.suppress(OSError, KeyError):
        rollup = numbers(Path(f"/proc/{pid}/smaps_rollup").read_text())
        status = numbers(Path(f"/proc/{pid}/status").read_text())
        return Memory(rollup["Rss"], rollup["Pss"], status["VmHWM"])
    return None


def numbers(text: str) -> dict[str, int]:
    """Return the entries of one of /proc's files that are in kB, in bytes."""
    found = re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {match[1]: int(match[2]) * 1024 for match in found}


def by_role(roots: Iterable[int]) -> dict[str, Memory]:
    """Return the memory of each role's largest process, below these daemons and they themselves."""
    found: dict[str, Memory] = {}
    for pid, name in roles(roots).items():
        if (now := memory(pid)) is not None:
            found[name] = larger(found.get(name), now)
    return dict(sorted(found.items()))


def run(command: Sequence[str]) -> tuple[str, int]:
    """Run a command to its end; return its output, and the most memory of it and all below it that was seen, in bytes.

    Raises:
        RuntimeError: it failed; with the end of what it wrote to its standard error.
    """
    most = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)  # noqa: S603 (the benchmarks' own commands)
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
            most = max(most, together(process.pid))
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command[:4])}: {err.read()[-2000:]}")
        return out.read(), most


def together(pid: int) -> int:
    """Return the memory of a process and all below it, bytes; pages that they share are counted once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found = [memory(each.pid) for each in (root, *root.children(recursive=True))]
        return sum(each.proportional for each in found if each is not None)
    return 0


def larger(one: Memory | None, other: Memory) -> Memory:
    """Return the larger of each number."""
    if one is None:
        return other
    pairs = ((getattr(one, name), getattr(other, name)) for name in Memory.__dataclass_fields__)
    return Memory(*(max(pair) for pair in pairs))


class Peaks:
    """The largest memory of each role that was seen, however short its processes live."""

    def __init__(self) -> None:
        self.roles: dict[str, Memory] = {}

    def look(self, roots: Iterable[int]) -> None:
        """Look now."""
        for name, now in by_role(roots).items():
            self.roles[name] = larger(self.roles.get(name), now)


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by how many bytes each role grew that was there both times."""
    return {name: after[name] - before[name] for name in before if name in after}
