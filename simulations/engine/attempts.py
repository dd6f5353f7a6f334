"""How often a clinic's task is asked again whose process has died, whatever runs the processes."""

from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 3
"""So often is a task asked, each time of a living process, before its clinic is late."""
START_SECONDS = 120.0
"""How long a process that takes a dead one's place may need to start; where there is no room, it never does."""
LOST = "its process was ended (killed, or out of memory)"
LOST_FOR_GOOD = f"{LOST}, {ATTEMPTS} times"
ENDED = "the run has ended"

Told = Callable[[int, str], None]
"""Is called with a partition and why its task is asked again; from other threads."""
Result = TypeVar("Result")


class LostError(Exception):
    """A task has no answer, since the process that had it is gone."""


class NobodyError(Exception):
    """No process lives that could take a task, and none can be started."""


class EndedError(Exception):
    """The run has ended: nobody waits for the answer any more."""


def asked_again(ask: Callable[[], Result], partition: int, told: Told) -> Result:
    """Return a task's result; where its process dies, ask again, `ATTEMPTS` times in all.

    Args:
        ask: gives the task to a living process and returns its result.
        partition: whose task it is.
        told: hears of each time that it is asked again.

    Raises:
        LostError: the process has died each time.
        Exception: whatever else `ask` raises.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return ask()
        except LostError:
            told(partition, f"{LOST}; asked again")
    return ask()


def out_of_memory(line: str) -> str:
    """Return what a task raised, in words where it is a MemoryError.

    Args:
        line: kind and text of the exception.
    """
    if line.startswith("MemoryError"):
        return f"out of memory ({line}); allow the process more, or ask for more resources.cpus, so that fewer run"
    return line
