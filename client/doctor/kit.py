"""The doctor's look at the kit and at what the clinic keeps: configuration, secrets, folders, ledger, logs, weights."""

import os
import pwd
import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import may_read, owner
from melfed.client.doctor.budget import budgets
from melfed.common.doctor.kit import certificate, only_owner_writes, private_folders, secrets, versions
from melfed.common.doctor.steps import Finding, Step, bad, doubtful, good, skipped
from melfed.common.errors import DataError, MelfedError, PolicyError, StorageError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.weights import SUFFIXES

if TYPE_CHECKING:
    from melfed.client.ledger.ledger import VerifiedLedger

NEW_KIT: Final = "put the kit's own file back, or ask the coordinator for a new kit of this clinic"
MESSENGER: Final = "melfed-messenger"
"""The user of the systemd units that carry messages."""

LITTLE_LEFT: Final = 0.1
"""Less than this part of the budget left is warned about."""


def state_steps(config: ClinicConfig) -> Iterator[Step]:
    """Yield the examinations of the kit and the state folder, in order."""
    yield Step("clinic.yaml", lambda: configuration(config))
    yield Step("versions", versions)
    yield Step("secrets", lambda: keys(config))
    yield Step("certificate", lambda: own_certificate(config))
    yield Step("state folder", lambda: state_folders(config))
    yield Step("ledger", lambda: ledger(config), 60)
    yield Step("budgets", lambda: budgets(config), 60)
    yield Step("audit log", lambda: audit_logs(config), 30)
    yield Step("weights", lambda: weights(config))


def configuration(config: ClinicConfig) -> Finding:
    """Judge what `clinic.yaml` lacks for a clinic that is to take part, and who may write it."""
    if wrong := only_owner_writes(config.path):
        return wrong
    lacking = [key for key in ("name", "coordinator", "data", "apps") if not getattr(config.file, key)]
    if lacking:
        return bad(f"lacks {', '.join(lacking)}", f"add {', '.join(lacking)}; the kit's clinic.yaml has an example")
    policy = config.policy
    if policy.non_private or policy.studies == "any":
        open_ = "policy.non_private is true" if policy.non_private else "policy.studies is any"
        return doubtful(f"clinic {config.file.name}; {open_}", "set it so only where all images are public")
    return good(f"clinic {config.file.name}, ε {policy.epsilon:g} at δ {policy.delta:g}, unit {policy.unit}")


def keys(config: ClinicConfig) -> Finding:
    """Judge the clinic's keys: for nobody but their owner, who must be whom the messenger runs as."""
    files = [config.certificate_key, config.node_key]
    found, user = secrets(files, NEW_KIT), owner(config.messenger_state)
    if found.status != "ok" or user is None:
        return found
    if closed := [path for path in files if not may_read(user, path)]:
        names, paths = ", ".join(path.name for path in closed), " ".join(map(str, closed))
        return bad(
            f"{names}: the messenger's user {user.name} cannot read it",
            f"chown {user.name} {paths}, and let {user.name} enter the folders above",
        )
    return found


def own_certificate(config: ClinicConfig) -> Finding:
    """Judge the clinic's own TLS certificate."""
    return certificate(config.certificate, config.certificate_key, config.ca_certificate, NEW_KIT)


def state_folders(config: ClinicConfig) -> Finding:
    """Judge who can enter the private folders, and whether the messenger is kept from the data."""
    found = private_folders([config.worker_state, config.messenger_state])
    user = config.file.messenger.user or MESSENGER
    if found.status != "ok" or config.file.data is None:
        return found
    for folder in (config.data_folder, config.worker_state):
        if folder.exists() and can_enter(user, folder):
            return doubtful(
                f"{found.detail}, but user {user} can read {folder}",
                f"take the rights of others from it, or of a group that {user} is in: chmod o-rwx {folder}",
            )
    return found


def can_enter(user: str, folder: Path) -> bool:
    """Tell whether a user of this machine may list a folder, by owners, groups and modes; False for no such user."""
    try:
        entry = pwd.getpwnam(user)
        groups = set(os.getgrouplist(user, entry.pw_gid))
    except (KeyError, OSError):
        return False

    def allowed(path: Path, bits: int) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == entry.pw_uid else 3 if status.st_gid in groups else 0
        return entry.pw_uid == 0 or (stat.S_IMODE(status.st_mode) >> shift) & bits == bits

    real = folder.resolve()
    return allowed(real, 0o5) and all(allowed(parent, 0o1) for parent in real.parents)


def ledger(config: ClinicConfig) -> Finding:
    """Verify the ledger, and tell how much of the budget is left."""
    from melfed.client.ledger.budget import mechanism_of
    from melfed.client.ledger.key import ledger_key
    from melfed.client.ledger.ledger import verify
    from melfed.client.ledger.witness import check_against, remembered
    from melfed.client.privacy import accounting

    path, policy = config.ledger, config.policy
    try:
        check_against(path, remembered(config.audit_log))
        if not path.exists() and not path.with_name(f"{path.name}.head").exists():
            return good(f"none yet: all of ε {policy.epsilon:g} is left")
        verified = verify(path)
        key = ledger_key(path)
        if changed := _other_data(config, verified, key):
            return changed
        reserved = [row for row in verified.rows if row.status == "reserved"]
        spent = accounting.epsilon([mechanism_of(row) for row in reserved], policy.delta)
    except MelfedError as error:
        return bad(str(error), "let those responsible for data protection look at it; train on nothing until then")
    left = policy.epsilon - spent
    data = f" on {len(verified.changes) + 1} states of the data" if verified.changes else ""
    charges = f"{len(reserved)} charge{'s' * (len(reserved) != 1)}{data}"
    text = f"{charges}, chain whole; ε {max(left, 0):.3g} of {policy.epsilon:g} left at δ {policy.delta:g}"
    if left < LITTLE_LEFT * policy.epsilon:
        return doubtful(text, "soon every private study is declined: decide whether policy.epsilon may be raised")
    return good(f"{text}; {verified.mendable}, mended by the next start" if verified.mendable else text)


def same_data(config: ClinicConfig) -> Finding:
    """Compare the images and patients with those that the ledger is of."""
    from melfed.client.ledger.key import ledger_key
    from melfed.client.ledger.ledger import verify

    if not config.ledger.exists():
        return good("no ledger yet")
    try:
        changed = _other_data(config, verify(config.ledger), ledger_key(config.ledger))
    except MelfedError as error:
        return bad(str(error), "let those responsible for data protection look at it; train on nothing until then")
    return changed or good("those that the ledger is of")


def _other_data(config: ClinicConfig, verified: "VerifiedLedger", key: bytes) -> Finding | None:
    """Return what is wrong where the ledger is not of the data as they are."""
    from melfed.client.data.clinic_data import population_fingerprint
    from melfed.client.data.loading import population

    try:
        data = population_fingerprint(population(config), key)
    except (DataError, PolicyError):
        # The checks of the data say more.
        return None
    if verified.data in (None, data):
        return None
    return bad(
        "the images or patients are not those that the ledger is of: private studies are refused",
        "bring the data back, or, if the change was meant: melfed-client ledger continue --by NAME",
    )


def audit_logs(config: ClinicConfig) -> Finding:
    """Verify the chains of the worker's audit log and of the messenger's."""
    from melfed.common.audit.log import verify_log

    kept = []
    for path in (config.audit_log, config.messenger_state / "audit.jsonl"):
        if not path.exists():
            continue
        try:
            verified = verify_log(path)
        except StorageError as error:
            return bad(str(error), "give the log back to the user of the service")
        if verified.error:
            return bad(verified.error, "keep the file as it is, and find out who wrote to it")
        kept.append(f"{verified.counted}, head {verified.head[:12]}")
    return good(f"chains whole: {'; '.join(kept)}") if kept else skipped("none yet")


def weights(config: ClinicConfig) -> Finding:
    """Count the pretrained weights that are here."""
    folder = config.weights
    files = [path for path in folder.glob("*") if path.suffix in SUFFIXES] if folder.is_dir() else []
    packages = {spec.package for spec in BACKBONES.values() if spec.package and find_spec(spec.package)}
    worker = owner(config.worker_state)
    unreadable = [path for path in files if not (may_read(worker, path) if worker else os.access(path, os.R_OK))]
    if unreadable:
        who = f" by {worker.name}" if worker else ""
        mend = f"chmod a+r {folder}/*, and chmod a+x on it and the folders above it"
        return bad(f"{len(unreadable)} of {len(files)} files cannot be read{who}", mend)
    installed = f", {len(packages)} package{'s' * (len(packages) != 1)}" if packages else ""
    text = f"{len(files)} file{'s' * (len(files) != 1)} in {folder}{installed}"
    if not files and not packages:
        return doubtful(
            text, f"copy the weights file of the study's backbone to {folder}: the worker downloads nothing"
        )
    return good(text)
