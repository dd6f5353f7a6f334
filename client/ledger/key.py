"""The secret key of a clinic's ledger: its units are hashed with it, and which part each is in follows from that."""

import contextlib
import secrets
from pathlib import Path

from melfed.common.errors import LedgerError, StorageError
from melfed.common.files import atomic_write

KEY_BYTES = 32


def ledger_key(ledger: Path) -> bytes:
    """Return the secret key of a ledger, 32 bytes beside it; made where there is no ledger yet.

    Raises:
        LedgerError: there is a ledger, but its key is missing or cut short.
        StorageError: the key cannot be written.
    """
    path = ledger.with_suffix(".key")
    if not path.exists():
        if ledger.exists():
            raise LedgerError(f"{path}: is missing, but there is a ledger; bring it back from the backup")
        _make_key(path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise LedgerError(f"{path}: has {len(key)} bytes instead of {KEY_BYTES}; bring it back from the backup")
    return key


def _make_key(path: Path) -> None:
    """Write a new key, unless another worker does so at the same time: then that one counts."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(fresh) as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
