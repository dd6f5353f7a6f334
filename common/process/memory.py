"""How much memory is left, and what a process is told that may have no more."""

import errno
import resource
from pathlib import Path
from typing import Final

import psutil

CGROUP: Final = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return bytes: the smaller of what the machine and what the control group has left; files in memory give way."""
    available = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((CGROUP / "memory.current").read_text())
            rows = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
            available = min(available, int(limit) - used + int(rows.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass
    return max(available, 0)


def no_memory(error: OSError) -> str:
    """Return in words what is lacking and what to do, where it is memory and not the disk; else nothing."""
    if error.errno != errno.ENOMEM:
        return ""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return "the machine has no memory left; end other programs, or run fewer clinics at a time"
    return f"the process may have {limit // 1024} kB of address space (ulimit -v); raise that: ulimit -v unlimited"
