"""What a process is told that may have no more memory."""

import errno
import resource


def no_memory(error: OSError) -> str:
    """Return in words what is lacking and what to do, where it is memory and not the disk; else nothing."""
    if error.errno != errno.ENOMEM:
        return ""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return "the machine has no memory left; end other programs, or run fewer clinics at a time"
    return f"the process may have {limit // 1024} kB of address space (ulimit -v); raise that: ulimit -v unlimited"
