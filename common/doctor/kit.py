"""Examinations of a kit that both sides need: certificates, keys, permissions, disk space, versions."""

import shutil
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Final

from melfed.common.doctor.steps import Finding, bad, doubtful, good

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

EXPIRY_DAYS: Final = 30
"""A certificate that is valid for fewer days than this is warned about."""

PACKAGES: Final = ("melfed", "flwr", "torch", "opacus")
VERSIONS_HEADER: Final = "Melfed-Versions"
"""Header in which the edge tells clinics its versions: `melfed/0.1.0 flwr/1.41.0`."""

GIB: Final = 1024**3


class KitError(Exception):
    """A file of a kit is missing or cannot be read; the text says which and why."""


def days_left(end: datetime, now: datetime | None = None) -> float:
    """Return how many days are left until a time; negative where it is past."""
    return (end - (now or datetime.now(UTC))).total_seconds() / 86_400


def expiry(what: str, end: datetime, mend: str, now: datetime | None = None) -> Finding:
    """Judge the end of a certificate: past, within `EXPIRY_DAYS`, or later."""
    left = days_left(end, now)
    if left < 0:
        return bad(f"{what} expired on {end:%Y-%m-%d}", mend)
    if left < EXPIRY_DAYS:
        return doubtful(f"{what} expires on {end:%Y-%m-%d}, in {left:.0f} days", mend)
    return good(f"{what} is valid until {end:%Y-%m-%d}")


def certificate(path: Path, key: Path, authority: Path, mend: str, now: datetime | None = None) -> Finding:
    """Judge a certificate of the kit: issued by the kit's CA, of its key, and valid now.

    Args:
        path: the certificate (PEM).
        key: its private key (PEM).
        authority: the consortium's CA certificate (PEM; several are allowed).
        mend: how to get a new one.
        now: the time, UTC.
    """
    now = now or datetime.now(UTC)
    try:
        own, authorities = read_certificates(path)[0], read_certificates(authority)
        public = _public_key(key)
    except KitError as error:
        return bad(str(error), mend)
    if _encoded(own.public_key()) != public:
        return bad(f"{key.name} is not the key of {path.name}", mend)
    if not any(_issued_by(own, each) for each in authorities):
        return bad(f"{path.name} is not from the authority in {authority.name}", mend)
    if own.not_valid_before_utc > now:
        return bad(f"{path.name} is valid from {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on", "set the clock")
    ending = min([*authorities, own], key=lambda each: each.not_valid_after_utc)
    return expiry(path.name if ending is own else authority.name, ending.not_valid_after_utc, mend, now)


def read_certificates(path: Path) -> "list[Certificate]":
    """Return the certificates of a PEM file, at least one. Raises KitError."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(_content(path))
    except ValueError:
        raise KitError(f"{path.name} holds no certificate") from None


def secrets(paths: Sequence[Path], mend: str) -> Finding:
    """Judge files that nobody but their owner may read: they are there, and have mode 0600 or less.

    Args:
        paths: the files.
        mend: how to get a file that is missing.
    """
    missing, unreadable, open_ = [], [], []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            missing.append(path)
        except OSError:
            unreadable.append(path)
        else:
            if stat.S_IMODE(status.st_mode) & 0o177:
                open_.append(path)
    if missing:
        return bad(f"missing: {_names(missing)}", mend)
    if unreadable:
        return bad(f"not reachable by this user: {_names(unreadable)}", "run the doctor as the user of the service")
    if open_:
        return bad(f"open to others than the owner: {_names(open_)}", f"chmod 600 {' '.join(map(str, open_))}")
    return good(f"{len(paths)} files, for their owner alone")


def private_folders(paths: Sequence[Path]) -> Finding:
    """Judge folders that nobody but their owner may enter; one that does not exist yet is made by the service."""
    found, open_ = 0, []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found += 1
        if not stat.S_ISDIR(status.st_mode):
            return bad(f"{path} is no folder", f"move {path} away")
        if stat.S_IMODE(status.st_mode) & 0o077:
            open_.append(path)
    if open_:
        return bad(f"open to others than the owner: {_names(open_)}", f"chmod 700 {' '.join(map(str, open_))}")
    if not found:
        return good("not there yet; made at the first start")
    return good(f"{found} of {len(paths)} folders exist, for their owner alone")


def only_owner_writes(path: Path) -> Finding | None:
    """Return what is wrong with a configuration file that others than its owner can write, else None."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        return bad(f"others than the owner can write {path.name} (mode {mode:04o})", f"chmod go-w {path}")
    return None


def disk_space(folder: Path, needed: int) -> Finding:
    """Judge the space left for a folder, that may not exist yet. `needed` is in bytes."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free for {folder}, about {needed / GIB:.1f} GiB needed"
    mend = f"free {max(needed - free, 0) / GIB:.1f} GiB, or name a folder on a larger disk"
    if free < needed / 2:
        return bad(text, mend)
    return good(text) if free >= needed else doubtful(text, mend)


def versions() -> Finding:
    """Judge the installed packages: those that melfed is made for, and pinned ones in just that version."""
    found, wrong = {"Python": python_version()}, []
    pins = _pins()
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            wrong.append(f"{name} is not installed")
            continue
        found[name] = version
        if version != pins.get(name, version):
            wrong.append(f"{name} is {version}, but melfed is made for {pins[name]}")
    if wrong:
        return bad("; ".join(wrong), "install melfed's package again: pip install --force-reinstall melfed")
    return good(", ".join(f"{name} {version}" for name, version in found.items()))


def versions_header() -> str:
    """Return this side's versions as the value of `VERSIONS_HEADER`; empty where nothing is installed as a package."""
    return " ".join(f"{name}/{version}" for name in ("melfed", "flwr") if (version := _version(name)))


def same_versions(header: str | None) -> Finding:
    """Judge the other side's versions by this side's: major and minor numbers must be the same."""
    if not header:
        return good("open to this clinic; the server does not tell its versions")
    theirs = dict(item.split("/", 1) for item in header.split() if "/" in item)
    unlike = [
        f"{name} is {theirs[name]} there and {own} here"
        for name in ("melfed", "flwr")
        if name in theirs and (own := _version(name)) and own.split(".")[:2] != theirs[name].split(".")[:2]
    ]
    if unlike:
        return doubtful("; ".join(unlike), "install the version that the coordinator runs, or ask it to update")
    return good(f"open to this clinic; {header}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pins() -> dict[str, str]:
    """Return the packages that melfed demands in one version."""
    try:
        requirements = metadata.requires("melfed") or []
    except metadata.PackageNotFoundError:
        return {}
    pins = {}
    for requirement in requirements:
        name, separator, version = requirement.partition(";")[0].partition("==")
        if separator and "extra ==" not in requirement:
            pins[name.partition("[")[0].strip()] = version.strip()
    return pins


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KitError(f"{path.name} is missing") from None
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror}") from None


def _public_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return _encoded(load_pem_private_key(_content(path), None).public_key())
    except (ValueError, TypeError):
        raise KitError(f"{path.name} holds no private key") from None


def _encoded(key: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _issued_by(own: "Certificate", authority: "Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)
