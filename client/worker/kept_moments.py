"""Moments that a clinic keeps to give them again, and how they are deleted."""

import glob
from pathlib import Path

from melfed.common.errors import RunError, StorageError
from melfed.common.tensors import load_tensors


def delete_moments(ledger: Path, run: str) -> bool:
    """Delete the moments that a run was given; tell whether there were any.

    What they cost stays in the ledger, which also keeps them from being released a second time.

    Args:
        ledger: the clinic's; beside it lies what it has paid for.
        run: identity of the run, as in the ledger.

    Raises:
        StorageError: they cannot be deleted.
    """
    pattern = f"{glob.escape(ledger.stem)}.moments-*.safetensors"
    found = [path for path in ledger.parent.glob(pattern) if _run_of(path) == run]
    for path in found:
        try:
            path.unlink()
        except OSError as error:
            raise StorageError(f"{path}: cannot be deleted: {error.strerror}") from None
    return bool(found)


def _run_of(path: Path) -> str | None:
    """Return whose the moments in a file are; None where that cannot be read."""
    try:
        metrics = load_tensors(path)[1].get("metrics")
    except RunError:
        return None
    return str(metrics.get("run")) if isinstance(metrics, dict) else None
