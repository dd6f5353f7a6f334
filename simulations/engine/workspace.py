"""The folder of a run's passing files (Ray's, Flower's), and what killed runs have left of theirs."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from melfed.common.errors import StorageError
from melfed.common.locks import is_held, only_one

PREFIX = "melfed-sim-"
LOCK = "owner.lock"
LONGEST_PARENT = 20
"""Ray's sockets lie some 85 bytes below, and Linux allows 107 for the whole path."""
VARIABLE = "MELFED_SIMULATION"
"""In the environment of a run's processes: the folder that they belong to."""


@contextlib.contextmanager
def workspace(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that is this process's for as long as the context lasts; clear away those of runs that were killed.

    A folder is of the process that holds the lock in it, which the kernel lets go of at that process's end.

    Args:
        parent: where; None: the folder for temporary files, or /tmp where its path is too long for Ray.

    Raises:
        StorageError: it cannot be made.
    """
    parent = parent or _temporary()
    clear(parent)
    name = secrets.token_hex(4)
    # Under another name until it is locked, so that nobody takes it for a dead run's.
    draft, folder = parent / f".{PREFIX}{name}", parent / f"{PREFIX}{name}"
    try:
        draft.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(f"{parent}: cannot be written: {error.strerror}; free space, or set TMPDIR") from None
    try:
        with only_one(draft / LOCK, "the folder is used"):
            draft.rename(folder)
            yield folder
    finally:
        _end_processes(folder)
        for path in (draft, folder):
            shutil.rmtree(path, ignore_errors=True)


def clear(parent: Path) -> list[Path]:
    """End the processes of runs that were killed, and remove their folders; returns these. Those of the living stay."""
    dead = [path for path in sorted(parent.glob(f"{PREFIX}*")) if _is_dead(path)]
    for path in dead:
        _end_processes(path)
        shutil.rmtree(path, ignore_errors=True)
    return dead


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir())
    return folder if len(os.fsencode(folder)) <= LONGEST_PARENT else Path("/tmp")  # noqa: S108 (the folder has mode 0700)


def _is_dead(path: Path) -> bool:
    """Tell whether a folder is one of this user's, and of no living process."""
    try:
        found = path.lstat()
        if path.is_symlink() or not path.is_dir() or found.st_uid != os.geteuid():
            return False
        return (path / LOCK).exists() and not is_held(path / LOCK)
    except (OSError, StorageError):
        return False  # it is being removed at this moment


def _end_processes(folder: Path) -> None:
    """Kill the processes whose environment names the folder: they are of this user, or could not be read."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or it has ended
            if process.environ().get(VARIABLE) == str(folder):
                process.kill()
