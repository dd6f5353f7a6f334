"""What is in a kit: the text of its files, and how it is written, so that it is there as a whole or not at all."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from melfed.common.files import atomic_folder, atomic_write
from melfed.server.clinics.certificates import Certificate
from melfed.server.provisioning.consortium import Consortium, ConsortiumClinic

SUMS = "SHA256SUMS"
PUBLIC, SECRET = 0o644, 0o600

Content = bytes | Path
"""Of a file: itself, or another file to copy."""


def template(name: str, values: Mapping[str, object]) -> bytes:
    """Return a file of `server/templates` with its `@name@` replaced. Raises KeyError for a name without a value."""
    text = (resources.files("melfed.server.provisioning") / "templates" / name).read_text(encoding="utf-8")
    return re.sub(r"@([a-z_]+)@", lambda match: str(values[match[1]]), text).encode("utf-8")


def clinic_files(consortium: Consortium, clinic: ConsortiumClinic, values: Mapping[str, object]) -> dict[str, Content]:
    """Return the files of a clinic's kit that hold no key, by path.

    Args:
        consortium: the consortium.
        clinic: whose kit it is.
        values: `fingerprint` (of the CA), `version` (of melfed) and `app` (SHA-256 of the app bundle).
    """
    entry, server = clinic.entry, consortium.file.server
    folder = clinic.data_folder
    every = {
        **values,
        "consortium": consortium.file.name,
        "name": clinic.name,
        "host": server.names[0],
        "port": server.port,
        "messenger_port": entry.messenger_port,
        "inaccessible": "" if folder is None else f'\nInaccessiblePaths="-{folder}"',
        "user": _yaml(entry.messenger_user),
        "health_port": _yaml(entry.health_port),
        "metrics_port": _yaml(entry.metrics_port),
    }
    settings = every | {
        "name": _yaml(clinic.name),
        "host": _yaml(server.names[0]),
        "folder": _yaml(None if folder is None else str(folder)),
        "sources": _yaml(entry.data.sources if entry.data else "all"),
        "apps": _yaml([every["app"]]),
    }
    return {
        "clinic.yaml": template("clinic.yaml", settings),
        "README.md": template("clinic-README.md", every),
        "install.sh": template("clinic-install.sh", {}),
        "systemd/melfed-worker.service": template("melfed-worker.service", every),
        "systemd/melfed-messenger.service": template("melfed-messenger.service", every),
        "sysusers.d/melfed.conf": template("clinic-sysusers.conf", {}),
        "tmpfiles.d/melfed.conf": template("clinic-tmpfiles.conf", {}),
        **{f"weights/{file.name}": file for file in consortium.weights},
    }


def server_files(consortium: Consortium, values: Mapping[str, object]) -> dict[str, Content]:
    """Return the files of the server's kit that hold no key, by path; `values` as for a clinic, without `app`."""
    server = consortium.file.server
    every = {**values, "consortium": consortium.file.name, "port": server.port}
    settings = every | {
        "consortium": _yaml(consortium.file.name),
        "address": _yaml(server.address),
        "superlink_port": server.superlink_port,
        "health_port": _yaml(server.health_port),
        "metrics_port": _yaml(server.metrics_port),
    }
    return {
        "server.yaml": template("server.yaml", settings),
        "README.md": template("server-README.md", every),
        "install.sh": template("server-install.sh", {}),
        "systemd/melfed-server.service": template("melfed-server.service", every),
        "sysusers.d/melfed-server.conf": template("server-sysusers.conf", {}),
        "tmpfiles.d/melfed-server.conf": template("server-tmpfiles.conf", {}),
        **{f"weights/{file.name}": file for file in consortium.weights},
    }


def words(ca: Certificate, version: str) -> dict[str, object]:
    """Return the values that every template may use."""
    return {"fingerprint": spoken_fingerprint(ca.fingerprint), "version": version}


def spoken_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint as openssl prints it, and as it is compared on the telephone: capitals, with colons."""
    digits = fingerprint.upper()
    return ":".join(digits[index : index + 2] for index in range(0, len(digits), 2))


def write_folder(folder: Path, public: Mapping[str, Content], secret: Mapping[str, bytes]) -> None:
    """Write a new folder (0700) with its files and their check sums. It appears as a whole, or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_folder(folder) as stage:
        for content, mode in ((public, PUBLIC), (secret, SECRET)):
            for name, each in content.items():
                _write(stage / name, each, mode)
        write_sums(stage, [*public, *secret])


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file atomically, with exactly this mode. Raises StorageError."""
    with atomic_write(path, mode) as file:
        # Whatever the umask, which would keep a kit's public files from the users that are to read them.
        os.fchmod(file.fileno(), mode)
        file.write(content)


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS`, for `sha256sum --check`. Raises StorageError."""
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(names)]
    write_file(folder / SUMS, "".join(lines).encode("utf-8"), PUBLIC)


def summed(folder: Path) -> list[str]:
    """Return the names of the files that a folder's `SHA256SUMS` lists."""
    return [line.split("  ", 1)[1] for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]


def write_archive(folder: Path) -> Path:
    """Write `FOLDER.zip` (0600) of a folder's files, with their permissions, and return its path.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder.with_name(f"{folder.name}.zip")
    with atomic_write(path, SECRET) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(each, f"{folder.name}/{each.relative_to(folder)}")
    return path


def _write(path: Path, content: Content, mode: int) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_file(path, content.read_bytes() if isinstance(content, Path) else content, mode)


def _yaml(value: object) -> str:
    """Return a text, number or null as YAML: what JSON writes."""
    return json.dumps(value, ensure_ascii=False)
