"""The consortium file: who takes part, and where the server is. `melfed-server provision` makes the kits from it.

`server/consortium.example.yaml` explains each key.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from melfed.common.errors import ServerConfigError
from melfed.common.study.protocol import Section
from melfed.common.yaml_file import Form
from melfed.server.clinics.registry import CLINIC_NAME
from melfed.server.config import Port

SERVER_NAME = "server"
"""What the server's certificate is called where one is renewed; no clinic may have this name."""

_HOST = re.compile(
    r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$"
)


class ServerEntry(Section):
    """Where the server is."""

    names: tuple[str, ...] = Field(description="a list of the server's host names and addresses; clinics use the first")
    port: Port = Field(443, description="its one open port")
    address: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 (it is the edge)
    superlink_port: Port = Field(9092, description="loopback port of Flower's SuperLink")
    health_port: Port | None = Field(9096, description="loopback port of the gRPC health service; null: none")
    metrics_port: Port | None = Field(9465, description="loopback port for Prometheus; null: none")

    @field_validator("names")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one host name or address")
        for name in value:
            if not _is_address(name) and not _HOST.match(name):
                raise ValueError(f"{name!r} is neither a host name nor an address")
        return value

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not _is_address(value):
            raise ValueError(f"{value!r} is not an address; 0.0.0.0 stands for all")
        return value


class DataEntry(Section):
    """Where a clinic's images are, if the coordinator knows."""

    folder: str = Field(min_length=1, description="folder with the images and their table")
    sources: Literal["all"] | tuple[str, ...] = Field("all", description="'all', or a list of names and patterns")


class ClinicEntry(Section):
    """A clinic that gets a kit."""

    name: Annotated[str, Field(pattern=CLINIC_NAME)] | None = Field(None, description="what the clinic is called")
    data: DataEntry | None = Field(None, description="where its images are; null: the clinic fills it in")
    messenger_user: str | None = Field(None, min_length=1, description="OS user of what carries messages; null: none")
    messenger_port: Port = Field(9094, description="loopback port between SuperNode and messenger")
    health_port: Port | None = Field(9095, description="loopback port of the gRPC health service; null: none")
    metrics_port: Port | None = Field(9464, description="loopback port for Prometheus; null: none")


class ConsortiumFile(Section):
    """The sections of a consortium file."""

    name: str = Field(pattern=CLINIC_NAME, description="the consortium's name; part of every certificate")
    server: ServerEntry = Field(description="where the server is")
    clinics: tuple[ClinicEntry, ...] = Field((), description="a list of the clinics, each with a name")
    weights: tuple[str, ...] = Field((), description="files that are put into every kit")
    validity_days: Annotated[int, Field(ge=1, le=3650)] = Field(365, description="how long certificates hold, days")

    @model_validator(mode="after")
    def _clinics_have_names_of_their_own(self) -> Self:
        nameless = [index for index, clinic in enumerate(self.clinics, 1) if clinic.name is None]
        if nameless:
            raise ValueError(f"entry {nameless[0]} of clinics has no name")
        # On some file systems folders that differ in case alone are the same.
        twice = _twice(str(clinic.name).casefold() for clinic in self.clinics)
        if twice:
            raise ValueError(f"two clinics are called {twice}")
        reserved = [clinic.name for clinic in self.clinics if str(clinic.name).casefold() == SERVER_NAME]
        if reserved:
            raise ValueError(f"no clinic can be called {reserved[0]}, since the server is")
        same = _twice(Path(file).name for file in self.weights)
        if same:
            raise ValueError(f"two files of weights are called {same}")
        return self


CONSORTIUM = Form(ConsortiumFile, "consortium", "'name:', 'server:' and 'clinics:'", ServerConfigError)


@dataclass(frozen=True)
class ConsortiumClinic:
    """A clinic of a consortium, its data folder made absolute."""

    name: str
    entry: ClinicEntry
    data_folder: Path | None


@dataclass(frozen=True)
class Consortium:
    """A consortium file with all paths made absolute. Relative ones start at the file's own folder."""

    path: Path
    file: ConsortiumFile

    @property
    def clinics(self) -> tuple[ConsortiumClinic, ...]:
        """The clinics in the file's order."""
        return tuple(
            ConsortiumClinic(str(entry.name), entry, self.path.parent / entry.data.folder if entry.data else None)
            for entry in self.file.clinics
        )

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that every kit gets."""
        return tuple(self.path.parent / file for file in self.file.weights)


def read_consortium(path: Path) -> Consortium:
    """Read a consortium file.

    Raises:
        ServerConfigError: in one line, with file, line and key of what is wrong and what is allowed; also where a file
            of weights is missing.
    """
    content, places = CONSORTIUM.read(path)
    consortium = Consortium(path.resolve(), CONSORTIUM.validate(content, places, str(path)))
    for file in consortium.weights:
        if not file.is_file():
            raise ServerConfigError(f"{places.get(('weights',), path)}: weights: no such file: {file}")
    return consortium


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
