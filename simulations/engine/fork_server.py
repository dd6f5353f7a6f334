"""The process that the local engine's workers are forked from: it has loaded what they need, and begun nothing.

A process that has computed cannot be forked safely (threads of its libraries are missing in the copy), and a new
interpreter needs seconds to import PyTorch. So one process imports it once and waits (the forkserver of Python's
multiprocessing); workers begin as copies of it, within milliseconds, and share its memory.

Workers need nothing of the script that begins the run, so it is not run again in them, as multiprocessing otherwise
does: a script needs no `if __name__ == "__main__"`, and a notebook has none.

Whatever is random in a worker must be seeded after the fork. Of this process nothing random is copied but the state of
the global generators of Python, NumPy and torch, from which melfed draws nothing (`tests/simulations/engine`).
"""

import contextlib
import functools
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker, spawn, util
from multiprocessing.context import ForkServerContext
from pathlib import Path

from melfed.simulations.engine.workspace import VARIABLE, workspace

PRELOADED = "melfed.simulations.engine.preloaded"
MAIN = "MELFED_MAIN"
"""Environment variable that tells the process what multiprocessing takes for the script that begins the run."""
LAST = -1000
"""At the end of this process, multiprocessing's own clearing away has -100."""
_starting = threading.Lock()


def prepare() -> ForkServerContext:
    """Start the process, unless it runs already, and come back at once; it imports beside what the caller does next.

    Returns:
        What workers are forked with.

    Raises:
        StorageError: there is no room for its folder.
    """
    context = multiprocessing.get_context("forkserver")
    with _starting:
        # Not in the folder's name: it ends by itself, and whoever ends it earlier is told of leaks that are none.
        resource_tracker.ensure_running()
        folder = _folder()
        path = os.pathsep.join(entry for entry in [*sys.path, os.environ.get("PYTHONPATH", "")] if entry)
        settings = {
            VARIABLE: str(folder),
            "PYTHONPATH": path,
            "PYTHONSAFEPATH": "1",  # a `numpy.py` in the current folder is not NumPy
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),  # made at the import already
            MAIN: _main(),
            "OMP_NUM_THREADS": "1",  # torch is told its threads by each worker, NumPy's BLAS starts none
        }
        context.set_forkserver_preload([PRELOADED])
        with _environment(settings), _temporary(folder):
            forkserver.ensure_running()
    return context


def _main() -> str:
    """Return "path FILE" or "name MODULE" of what multiprocessing would run again in each worker; "" for nothing."""
    found = spawn.get_preparation_data("")
    keys = (("path", "init_main_from_path"), ("name", "init_main_from_name"))
    return next((f"{kind} {found[key]}" for kind, key in keys if key in found), "")


@functools.cache
def _folder() -> Path:
    """Return a folder that is this process's until its end, as are the processes that bear its name."""
    stack = contextlib.ExitStack()
    folder = stack.enter_context(workspace())
    # After multiprocessing has removed what it made in there, and in this process alone, should it be forked.
    util.Finalize(None, stack.close, exitpriority=LAST)
    return folder


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Have Python's multiprocessing make its folder in this one, where its socket's path is short."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
