"""A function in a process of its own, whose memory goes with it when it is done.

What a process once imported, it keeps: torch alone is half a gigabyte.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from melfed.common.errors import ServiceError
from melfed.common.process.launcher import end_with_parent

Result = TypeVar("Result")


def aside(function: Callable[..., Result], *arguments: object) -> Result:
    """Return what a function returns, or raise what it raises; it is run by an interpreter started for it.

    Args:
        function: of a module's top level, which is imported there.
        arguments: what it is called with; they, and what it returns, are copied.

    Raises:
        ServiceError: the process was ended from outside.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (os.getpid(),)) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise ServiceError(
                f"the process for {function.__name__} was ended; see that the machine has memory left, and try again"
            ) from None


def _begin(parent: int) -> None:
    """End when the parent does, however it ends, and leave Ctrl-C to it."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
