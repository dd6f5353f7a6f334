"""The clinics that the server knows: one JSON file each, `clinics/NAME.json`, of nothing that is secret.

What is in the folder is the allow-list. A clinic whose record is missing or revoked reaches nothing.
"""

import datetime
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from melfed.common.errors import ServerConfigError
from melfed.common.files import atomic_write
from melfed.common.study.protocol import Section
from melfed.common.yaml_file import Form, one_line
from melfed.server.clinics.certificates import key_header, now

CLINIC_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_KEPT = 3
"""How many certificates before the present one are let in: enough for a renewal that a clinic has yet to install."""

Serial = Annotated[str, Field(pattern=r"^([0-9A-F]{2}){1,20}$")]


class ClinicRecord(Section):
    """A clinic as the server knows it.

    Its node key is what Flower knows it by. Its certificate is known by the serial number, as nginx writes it: only one
    CA is trusted, and that gives random ones. `earlier` are certificates that were renewed and may be used until they
    end.
    """

    name: str = Field(pattern=CLINIC_NAME, description="the clinic's name")
    node_key: str = Field(max_length=400, description="public key of its SuperNode: a line in OpenSSH's format")
    serial: Serial = Field(description="serial number of its certificate, hexadecimal, upper case")
    not_after: str = Field(description="when its certificate ends, ISO 8601")
    earlier: tuple[Serial, ...] = Field((), max_length=_KEPT, description="serial numbers before the last renewal")
    revoked: bool = Field(False, description="whether it is kept out")
    approved_at: str = Field(description="when it was let in, ISO 8601")
    revoked_at: str | None = Field(None, description="when it was last kept out, ISO 8601; null: never")

    @field_validator("node_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            key_header(value)
        except ServerConfigError as error:
            raise ValueError(str(error)) from None
        return " ".join(value.split()[:2])

    @field_validator("not_after", "approved_at", "revoked_at")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        try:
            zone = None if value is None else datetime.datetime.fromisoformat(value).utcoffset()
        except ValueError:
            zone = None
        if value is not None and zone is None:
            raise ValueError(f"should be a time with its zone, such as {now().isoformat()}, not {one_line(value)!r}")
        return value

    @model_validator(mode="after")
    def _serial_is_new(self) -> Self:
        if self.serial in self.earlier:
            raise ValueError("the serial number stands among the earlier ones, too")
        return self

    @property
    def serials(self) -> tuple[str, ...]:
        """Serial numbers of the certificates that it may use now: none where it is revoked."""
        return () if self.revoked else (self.serial, *self.earlier)


_RECORD = Form(ClinicRecord, "clinic record", "'name' and 'node_key'", ServerConfigError)


def read_record(path: Path) -> ClinicRecord:
    """Read the record of one clinic.

    Raises:
        ServerConfigError: in one line, what is wrong with the file.
    """
    content, places = _RECORD.read(path)
    if not content.keys() & {"node_key", "serial"}:
        where = "they are kits/server/clinics/NAME.json (studies are approved by clinics)"
        raise ServerConfigError(f"{path}: not a clinic's record; {where}")
    return _RECORD.validate(content, places, str(path))


def read_clinics(folder: Path) -> tuple[ClinicRecord, ...]:
    """Read the records of all clinics, sorted by name; none where there is no such folder.

    Raises:
        ServerConfigError: the folder cannot be read, a file is not a record or not that of its name, or two clinics
            share a key or a certificate.
    """
    records = []
    for path in _paths(folder):
        record = read_record(path)
        if record.name != path.stem:
            raise ServerConfigError(f"{path}: the record of {record.name}; it belongs into {record.name}.json")
        records.append(record)
    for index, record in enumerate(records):
        _check_apart(record, records[:index])
    return tuple(records)


def _paths(folder: Path) -> list[Path]:
    """Return the records' files. To `Path.glob` a folder that may not be read would be an empty one: nobody let in."""
    try:
        # One with a leading dot is being written.
        return sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = f"{folder}: cannot be read: {error.strerror}"
        raise ServerConfigError(f"{reason}; it is a folder that the server's user may read") from None


def approve(folder: Path, record: ClinicRecord | Path) -> ClinicRecord:
    """Let a clinic in, or in again, and return its record as written.

    A clinic that was in already and comes with the same node key and a new certificate may use both certificates until
    the old one ends, so that it can install the new one when it suits.

    Args:
        folder: of the records.
        record: or its file (as `provision` wrote it, or the one in the folder, of a clinic that was revoked).

    Raises:
        ServerConfigError: not a record, or another clinic has this key or certificate.
        StorageError: it cannot be written.
    """
    new = read_record(record) if isinstance(record, Path) else record
    return _write(folder, _let_in(folder, new, revoked=False))


def revoke(folder: Path, name: str) -> ClinicRecord:
    """Keep a clinic out, and return its record as written. Its certificates before the last renewal stay out for good.

    Raises:
        ServerConfigError: no such clinic.
        StorageError: it cannot be written.
    """
    known = {record.name: record for record in read_clinics(folder)}
    if name not in known:
        raise ServerConfigError(f"{folder}: no clinic is called {name}; known: {', '.join(known) or 'none'}")
    if known[name].revoked:
        return known[name]
    return _write(
        folder, known[name].model_copy(update={"revoked": True, "revoked_at": now().isoformat(), "earlier": ()})
    )


def replace_certificate(
    folder: Path, name: str, serial: str, not_after: str, node_key: str | None = None
) -> ClinicRecord:
    """Write down a clinic's renewed certificate, and return the record. A clinic that is kept out stays out.

    With a new node key, its earlier certificates end at once.

    Raises:
        ServerConfigError: no such clinic.
        StorageError: it cannot be written.
    """
    old = read_record(folder / f"{name}.json")
    new = old.model_copy(
        update={"serial": serial, "not_after": not_after, "node_key": old.node_key if node_key is None else node_key}
    )
    return _write(folder, _let_in(folder, new, revoked=old.revoked))


def _let_in(folder: Path, new: ClinicRecord, revoked: bool) -> ClinicRecord:
    """Return a record with what the folder knows of the same clinic."""
    known = {record.name: record for record in read_clinics(folder)}
    old = known.pop(new.name, None)
    _check_apart(new, known.values())
    earlier: tuple[str, ...] = ()
    if old is not None and not old.revoked and old.node_key == new.node_key:
        earlier = tuple(serial for serial in (old.serial, *old.earlier) if serial != new.serial)[:_KEPT]
    approved_at = new.approved_at if revoked else now().isoformat()
    revoked_at = old.revoked_at if old is not None else None
    return new.model_copy(
        update={"earlier": earlier, "revoked": revoked, "approved_at": approved_at, "revoked_at": revoked_at}
    )


def _check_apart(record: ClinicRecord, others: Iterable[ClinicRecord]) -> None:
    for other in others:
        if record.node_key == other.node_key:
            raise ServerConfigError(f"clinics {other.name} and {record.name} have the same node key; one is a copy")
        if {record.serial, *record.earlier} & {other.serial, *other.earlier}:
            raise ServerConfigError(f"clinics {other.name} and {record.name} have the same certificate; one is a copy")


def _write(folder: Path, record: ClinicRecord) -> ClinicRecord:
    text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    with atomic_write(folder / f"{record.name}.json") as file:
        # Public, so that root may write what the server's user reads.
        os.fchmod(file.fileno(), 0o644)
        file.write(text.encode("utf-8"))
    return record
