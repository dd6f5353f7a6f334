"""What the clinic's Flower processes need before Flower is loaded: its environment, and a secret."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from melfed.client.config.clinic import ClinicConfig, read_apps, without_folder
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import DeclinedError, PolicyError, ServiceError


def prepare(config: ClinicConfig) -> Path:
    """Set this process's environment for Flower, before it is imported; return the file of the messengers' secret.

    The secret lets melfed's own messenger, and nothing else on this machine, fetch messages from the SuperNode.

    Raises:
        ServiceError: the state folder cannot be written.
    """
    for name in [name for name in os.environ if name.startswith("FLWR_")]:
        del os.environ[name]
    os.environ |= {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(config.messenger_state / "flower"),
    }
    secret = config.messenger_state / "superexec.secret"
    try:
        config.messenger_state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not secret.exists():
            # SuperNode and messenger may both get here: a link is made whole, and by one of them.
            draft = secret.with_name(f".{secret.name}.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_bytes(secrets.token_hex(32).encode())
            with contextlib.suppress(FileExistsError):
                os.link(draft, secret)
            draft.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServiceError(f"{config.messenger_state}: cannot be written: {reason}; see who owns it") from None
    return secret


def check_bundle(config: ClinicConfig, bundle: bytes, who: str) -> None:
    """Check that the clinic lists an app bundle now; one that it does not is told in the audit log.

    Args:
        config: the clinic's; its list is read anew.
        bundle: as it came from the coordinator.
        who: which process asks.

    Raises:
        DeclinedError: it is not listed, or the list cannot be read.
        StorageError: that could not be written to the audit log.
    """
    digest = hashlib.sha256(bundle).hexdigest()
    audit = AuditLog(config.messenger_audit_log, who)
    try:
        apps = read_apps(config.path)
    except PolicyError as error:
        audit.record(Event.CONFIGURATION_REFUSED, reason=without_folder(error))
        raise DeclinedError("this clinic's configuration cannot be used; its own log says why") from None
    if digest not in apps:
        reason = "app bundle SHA is not approved at this clinic"
        audit.record(Event.BUNDLE_REFUSED, sha256=digest, reason=reason)
        raise DeclinedError(f"{reason}: {digest}")


def quick_pulls(pull: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's function that fetches the parts of a message, asking sooner again for what is not there yet.

    The other end announces a message before it has all parts. Flower asks again after a second, then ever later, and
    gives the message up in the end; that is left to the message's own expiry.
    """
    return partial(pull, initial_backoff=0.05, backoff_cap=2.0, max_tries_per_object=None)
