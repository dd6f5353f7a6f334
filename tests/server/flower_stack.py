"""A real SuperLink and superexec on loopback, for tests."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from melfed.common.errors import ServiceError
from melfed.server.config import ServerConfig
from melfed.server.flower.control_client import Control
from melfed.server.flower.superlink import command, quiet_environment

SECONDS = 60.0
_Result = TypeVar("_Result")


def until(what: str, condition: Callable[[], _Result], seconds: float = SECONDS) -> _Result:
    """Wait for something that other processes do; a service that cannot be reached yet counts as no."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ServiceError):
            if result := condition():
                return result
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def child(config: ServerConfig, name: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of the daemon's children; ended in the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(command(config, name), env=quiet_environment(config), stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@contextlib.contextmanager
def superlink(config: ServerConfig) -> Iterator[Control]:
    """A SuperLink that answers."""
    with child(config, "superlink", config.folder / "superlink.log"), Control(config, seconds=5) as control:
        until("SuperLink answers", lambda: control.nodes() is not None)
        yield control
