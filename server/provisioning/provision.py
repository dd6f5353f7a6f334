"""Provisioning: from a consortium file to the private CA, the server's kit, and a kit a clinic.

    OUT/authority/         the CA's key and certificate: to be kept offline
    OUT/server/            the server's kit
    OUT/clinics/NAME/      a clinic's kit, and NAME.zip

What exists is never written again, so that a second run adds the clinics that are new. A clinic that has a record has
had its kit, which the coordinator may have deleted after it was sent: it is left alone. A run that was killed is made
whole by the next one; of a renewal that was killed the next run says that it is to be done again.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from melfed.common.errors import ServerConfigError
from melfed.common.files import remove_unfinished
from melfed.server.clinics.certificates import (
    Pair,
    belongs,
    make_authority,
    make_clinic_certificate,
    make_node_key,
    make_server_certificate,
    now,
    public_line,
    read_certificate,
)
from melfed.server.clinics.registry import ClinicRecord, approve, read_clinics, replace_certificate
from melfed.server.provisioning import kits
from melfed.server.provisioning.consortium import SERVER_NAME, Consortium, ConsortiumClinic, read_consortium

_SECRET_BYTES = 48
_OWN_FILES = ("clinic.crt", "clinic.key", "node.key")
"""What makes a kit that of its clinic."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_PORTS = ("port", "superlink_port", "messenger_port", "health_port", "metrics_port")


@dataclass(frozen=True)
class Provisioned:
    """What `provision` did.

    `added` and `renewed` are the paths of what was made, below `out`: "authority", "server", "clinics/NAME". `notes`
    are lines for the coordinator. `fingerprint` is the SHA-256 of the CA's certificate, `app` that of the app bundle.
    """

    out: Path
    added: tuple[str, ...]
    renewed: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str
    app: str


def provision(consortium_path: Path, out: Path, renew: str | None = None) -> Provisioned:
    """Make what is missing of a consortium's kits.

    Args:
        consortium_path: the consortium file.
        out: folder of the kits.
        renew: name of a clinic whose certificate and its key are made anew, or "server"; nothing else is written again.
            A clinic whose kit is gone gets a new one, with another node key.

    Raises:
        ServerConfigError: the consortium file is invalid, or a file in `out` that is needed is missing or altered.
        StorageError: a file cannot be written.
    """
    from melfed.server.flower.app_bundle import build_bundle, bundle_digest

    consortium = read_consortium(consortium_path)
    folders = _Folders(out)
    for folder in (out, folders.authority, folders.server, folders.clinics, *folders.clinics.glob("*/")):
        remove_unfinished(folder)  # private keys, under names that nobody would look for
    if renew is not None:
        _check_renewable(consortium, folders, renew)
    added: list[str] = []
    if not folders.authority.exists():
        if folders.server.exists() or any(folders.clinics.glob("*/ca.crt")):
            raise ServerConfigError(f"{folders.authority}: missing; bring the CA back that made the kits in {out}")
        pair = make_authority(consortium.file.name)
        kits.write_folder(folders.authority, {"ca.crt": pair.certificate}, {"ca.key": pair.key})
        added.append("authority")
    maker = _Maker(consortium, folders, _read_authority(folders.authority))
    if not folders.server.exists():
        maker.make_server(build_bundle())
        added.append("server")
    app = bundle_digest(_read(folders.server / "melfed.fab"))
    added += [f"clinics/{clinic.name}" for clinic in consortium.clinics if maker.make_clinic(clinic, app)]
    renewed: tuple[str, ...] = ()
    if renew is not None:
        renewed = (maker.renew_server() if renew == SERVER_NAME else maker.renew_clinic(renew, app),)
    fingerprint = read_certificate(folders.authority / "ca.crt").fingerprint
    return Provisioned(out, tuple(added), renewed, tuple(_notes(consortium, folders)), fingerprint, app)


class _Folders:
    """Where things are below `out`."""

    def __init__(self, out: Path) -> None:
        self.authority, self.server, self.clinics = out / "authority", out / "server", out / "clinics"
        self.records = self.server / "clinics"


class _Maker:
    """Makes kits with one CA."""

    def __init__(self, consortium: Consortium, folders: _Folders, authority: Pair) -> None:
        self._consortium, self._folders, self._authority = consortium, folders, authority
        self._ca = read_certificate(folders.authority / "ca.crt")

    def make_server(self, bundle: bytes) -> None:
        """Write the server's kit; the records of clinics are added to it later, and are not among its check sums."""
        pair = self._server_certificate()
        public = kits.server_files(self._consortium, kits.words(self._ca, _version()))
        public |= {"ca.crt": self._authority.certificate, "server.crt": pair.certificate, "melfed.fab": bundle}
        secret = {"server.key": pair.key, "superexec.secret": secrets.token_hex(_SECRET_BYTES).encode("ascii")}
        kits.write_folder(self._folders.server, public, secret)

    def make_clinic(self, clinic: ConsortiumClinic, app: str) -> bool:
        """Write a clinic's kit, its archive and, last, its record, unless it has one; return whether it had none."""
        folder = self._folders.clinics / clinic.name
        if (self._folders.records / f"{clinic.name}.json").exists():
            return False
        if not folder.exists():
            self._write_kit(clinic, app)
        if not folder.with_name(f"{clinic.name}.zip").exists():
            kits.write_archive(folder)
        self._folders.records.mkdir(mode=0o755, exist_ok=True)
        approve(self._folders.records, _record(clinic.name, folder))
        return True

    def _write_kit(self, clinic: ConsortiumClinic, app: str) -> None:
        pair = self._clinic_certificate(clinic.name)
        values = kits.words(self._ca, _version()) | {"app": app}
        public = kits.clinic_files(self._consortium, clinic, values)
        public |= {"ca.crt": self._authority.certificate, "clinic.crt": pair.certificate}
        secret = {"clinic.key": pair.key, "node.key": make_node_key()}
        kits.write_folder(self._folders.clinics / clinic.name, public, secret)

    def renew_server(self) -> str:
        """Make the server's certificate and its key anew."""
        self._replace(self._folders.server, "server", self._server_certificate())
        return "server"

    def renew_clinic(self, name: str, app: str) -> str:
        """Make a clinic's certificate and its key anew; Flower knows it by its node key, which stays with the kit."""
        folder = self._folders.clinics / name
        if folder.exists():
            self._replace(folder, "clinic", self._clinic_certificate(name))
        else:
            self._write_kit(_listed(self._consortium)[name], app)
        kits.write_archive(folder)
        new = _record(name, folder)
        replace_certificate(self._folders.records, name, new.serial, new.not_after, new.node_key)
        return f"clinics/{name}"

    def _replace(self, folder: Path, name: str, pair: Pair) -> None:
        names = kits.summed(folder)
        kits.write_file(folder / f"{name}.key", pair.key, kits.SECRET)
        kits.write_file(folder / f"{name}.crt", pair.certificate, kits.PUBLIC)
        kits.write_sums(folder, names)

    def _server_certificate(self) -> Pair:
        file = self._consortium.file
        return make_server_certificate(self._authority, file.name, file.server.names, file.validity_days)

    def _clinic_certificate(self, name: str) -> Pair:
        file = self._consortium.file
        return make_clinic_certificate(self._authority, file.name, name, file.validity_days)


def _record(name: str, folder: Path) -> ClinicRecord:
    """Return the record of the clinic that has this kit."""
    certificate = read_certificate(folder / "clinic.crt")
    return ClinicRecord(
        name=name,
        node_key=public_line(_read(folder / "node.key")),
        serial=certificate.serial,
        not_after=certificate.not_after.isoformat(),
        approved_at=now().isoformat(),
    )


def _listed(consortium: Consortium) -> dict[str, ConsortiumClinic]:
    return {clinic.name: clinic for clinic in consortium.clinics}


def _check_renewable(consortium: Consortium, folders: _Folders, name: str) -> None:
    """Raise ServerConfigError where there is no certificate of this name to renew."""
    if name == SERVER_NAME:
        if not folders.server.exists():
            raise ServerConfigError(f"{folders.server}: nothing to renew yet; provision without --renew")
        return
    known, folder = sorted(path.stem for path in folders.records.glob("*.json")), folders.clinics / name
    if name not in known:
        raise ServerConfigError(f"no clinic {name!r} to renew; known: {', '.join(known) or 'none'}, and server")
    if not folder.exists() and name not in _listed(consortium):
        raise ServerConfigError(
            f"{folder}: missing, and {name} is not in {consortium.path}; add it there for a new kit"
        )
    if folder.exists() and not _is_whole(folder):
        raise ServerConfigError(f"{folder}: not whole; remove it, and provision --renew {name} makes a new kit")


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (kits.SUMS, *_OWN_FILES))


def _read_authority(folder: Path) -> Pair:
    return Pair(_read(folder / "ca.crt"), _read(folder / "ca.key"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"{path}: cannot be read: {error.strerror}"
        raise ServerConfigError(f"{reason}; put the file back that was made with the kits") from None


def _notes(consortium: Consortium, folders: _Folders) -> Iterator[str]:
    """Yield what differs between the consortium file and the kits, and what to do about it."""
    certificate = read_certificate(folders.server / "server.crt")
    missing = [name for name in consortium.file.server.names if name not in certificate.names]
    if missing:
        yield f"server.crt does not name {', '.join(missing)}: provision --renew server, and mend the kits' clinic.yaml"
    yield from _notes_on_ports(consortium)
    listed = _listed(consortium)
    for record in read_clinics(folders.records):
        if record.name not in listed and not record.revoked:
            yield f"{record.name} is not in {consortium.path.name}, but may still connect: melfed-server revoke"
        elif not record.revoked and (note := _note_on_kit(folders.clinics / record.name, record)):
            yield note


def _notes_on_ports(consortium: Consortium) -> Iterator[str]:
    """Yield the ports that stand twice, where the server's address says that all is on one machine."""
    server = consortium.file.server
    if server.names[0] not in _THIS_MACHINE:
        return
    whose: dict[int, list[str]] = {}
    for name, entry in (("server", server), *((clinic.name, clinic.entry) for clinic in consortium.clinics)):
        for key in _PORTS:
            if (port := getattr(entry, key, None)) is not None:
                whose.setdefault(port, []).append(f"{name}.{key}")
    for port, names in whose.items():
        if len(names) > 1:
            yield f"port {port} is that of {', '.join(names)}; on one machine each needs its own"


def _note_on_kit(folder: Path, record: ClinicRecord) -> str:
    """Return what is to be said of the kit of a clinic that has a record; nothing where the two agree."""
    if not folder.exists() or not _is_whole(folder):
        return f"the kit of {record.name} is not here any more; should it need a new one: --renew {record.name}"
    with contextlib.suppress(ServerConfigError):  # a file of it cannot be read
        kit = _record(record.name, folder)
        whole = belongs(_read(folder / "clinic.key"), _read(folder / "clinic.crt"))
        if whole and (kit.node_key, kit.serial) == (record.node_key, record.serial):
            return ""
    return f"{folder}: not the kit of {record.name}'s record, as after a renewal that was killed: --renew {record.name}"


def _version() -> str:
    try:
        return metadata.version("melfed")
    except metadata.PackageNotFoundError:  # run from its sources
        return "from source"
