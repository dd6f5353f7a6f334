"""The clinic's state folder: which half belongs to whom, and files that root writes for another user.

    STATE/           0711, root's or the data user's
      worker/        0700, the data user's: ledger, approvals, stored replies, audit log, caches
      messenger/     0700, the messenger's: Flower's files, and the secret between SuperNode and messenger
      run/           2750, the data user's, with the messenger's group: the socket, and what `status` reads

Nothing below `run` tells of a patient. Root only makes folders in what is root's or the data user's, and hands files
over by their descriptor, so that a link which somebody puts there changes nothing else.
"""

import contextlib
import os
import pwd
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from melfed.client.config.clinic import ClinicConfig
from melfed.common.errors import PolicyError, StorageError
from melfed.common.files import atomic_write, remove_unfinished

SECRET_BYTES = 32


@dataclass(frozen=True)
class OSUser:
    """An OS user: numeric ids, as processes and files have them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def account(name: str) -> OSUser:
    """Return an OS user. Raises PolicyError where this machine has none of that name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise PolicyError(f"messenger.user: this machine has no user {name!r}; add it, or correct the name") from None
    return OSUser(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


def messenger_account(config: ClinicConfig) -> OSUser | None:
    """Return whom `start` runs SuperNode and messenger as; None where it runs them as itself.

    Raises:
        PolicyError: the configured user does not exist.
    """
    name = config.file.messenger.user
    if name is None or os.geteuid() != 0:
        return None
    return account(name)


def owner(folder: Path) -> OSUser | None:
    """Return whose folder it is, where root asks for another's; None: nobody's, or this process sees as they do."""
    try:
        name = pwd.getpwuid(folder.stat().st_uid).pw_name
    except (KeyError, OSError):
        return None
    found = account(name)
    return found if os.geteuid() == 0 and found.uid != 0 else None


@contextlib.contextmanager
def acting_as_owner(folder: Path) -> Iterator[None]:
    """Do as a folder's owner what root asks for, so that no file in it becomes root's."""
    user, root = owner(folder), (os.getegid(), os.getgroups())
    if user is None:
        yield
        return
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(root[0])
        os.setgroups(root[1])


def may_read(user: OSUser, path: Path) -> bool:
    """Tell whether a user can read a file, or list and enter a folder; access lists count. Only root can ask."""
    enter = ("-a", "-x", str(path)) if path.is_dir() else ()
    done = subprocess.run(  # noqa: S603 (no shell, and the paths are the configuration's own)
        ["/usr/bin/test", "-r", str(path), *enter],
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
        timeout=10,
        check=False,
    )
    return done.returncode == 0


def prepare_worker(config: ClinicConfig) -> None:
    """Make the folders that the worker writes to.

    Raises:
        PolicyError: messenger.user does not exist.
        StorageError: a folder cannot be made.
    """
    _folder(config.state, 0o711)
    _folder(config.worker_state, 0o700)
    remove_unfinished(config.worker_state)
    _folder(config.approvals, 0o700)
    _log(config.audit_log)
    # Files that are made in it get its group: so the messenger may use the socket.
    _folder(config.run, 0o2750, gid=_shared_group(config))


def prepare_messenger(config: ClinicConfig, messenger: OSUser | None = None) -> None:
    """Make the messenger's folder and its audit log; what is there is left as it is.

    Raises:
        StorageError: folder or log cannot be made.
    """
    _folder(config.state, 0o711)
    _folder(config.messenger_state, 0o700, messenger.uid if messenger else None, messenger.gid if messenger else None)
    remove_unfinished(config.messenger_state)
    _log(config.messenger_audit_log)


def new_secret(config: ClinicConfig) -> None:
    """Make the secret that SuperNode and messenger share anew; only who is about to start both may.

    Raises:
        StorageError: it cannot be written.
    """
    write_private(config.superexec_secret, secrets.token_hex(SECRET_BYTES).encode())


def hand_over_keys(config: ClinicConfig, messenger: OSUser) -> None:
    """Give the keys that speak for the clinic to the user that speaks; 0600. Only root can.

    Raises:
        StorageError: a key is missing, or cannot be given.
    """
    for path in (config.node_key, config.certificate_key):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fchown(descriptor, messenger.uid, messenger.gid)
                os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
        except OSError as error:
            reason = f"{path}: cannot be given to {messenger.name}: {error.strerror}"
            raise StorageError(f"{reason}; it comes with the clinic's kit, as a plain file") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file of the state, 0600, atomically; root writes it for the folder's owner.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_write(path) as file:
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.write(content)


def _log(path: Path) -> None:
    """Make an audit log that root would else make as its own, so that the folder's owner could not write to it."""
    if os.geteuid() != 0 or path.exists():
        return
    owner = path.parent.stat()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:  # a link to nowhere, or a full disk
        raise StorageError(f"{path}: cannot be made: {error.strerror}; see what is there") from error
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def _shared_group(config: ClinicConfig) -> int | None:
    """Return the messenger's group where this process may give files to it, else None."""
    name = config.file.messenger.user
    if name is None:
        return None
    group = account(name).gid
    return group if os.geteuid() == 0 or group in (os.getegid(), *os.getgroups()) else None


def _folder(path: Path, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """Make a folder with exactly this mode; one that is there keeps its owner, and is never opened wider."""
    try:
        if path.is_dir():
            _narrow(path, mode)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        parent = path.parent.stat()
        if os.geteuid() == 0:
            os.chown(path, parent.st_uid if uid is None else uid, parent.st_gid if gid is None else gid)
        elif gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
    except OSError as error:
        reason = f"{path}: cannot be made: {error.strerror or error}"
        raise StorageError(f"{reason}; see that the folder above it can be written to, or make it as root") from error


def _narrow(path: Path, mode: int) -> None:
    """Take permissions away that the folder should not give, if it is ours."""
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o777 & ~mode:
        path.chmod(status.st_mode & 0o7000 | status.st_mode & mode & 0o777)
