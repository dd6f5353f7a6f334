"""The clinic's own configuration, `clinic.yaml`: its name, its data, the coordinator's address, and its policy.

Paths may be relative to the file's own folder, so that a kit can be moved as a whole. A simulation reads the policy of
such a file alone (`read_policy`), so the sections that only a deployed clinic needs may be missing there.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from melfed.client.config.policy import ClinicPolicy
from melfed.common.errors import DataError, PolicyError
from melfed.common.study.protocol import Digest, Section
from melfed.common.yaml_file import Form

if TYPE_CHECKING:
    from melfed.common.data.tables.rows import ReadOptions

Value = TypeVar("Value")
Port = Annotated[int, Field(ge=1, le=65_535)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ENVIRONMENT = "MELFED_CLINIC"
PLACES = (Path("clinic.yaml"), Path("/etc/melfed/clinic.yaml"))
"""Where `clinic.yaml` is looked for when nobody names it."""


class CoordinatorSection(Section):
    """Where the coordinator is. The clinic opens connections to this one address and accepts none from outside."""

    host: str = Field(min_length=1, max_length=253, description="name or address of the coordinator's server")
    port: Port = Field(443, description="its one open port")


Names = tuple[Annotated[str, Field(min_length=1)], ...]


class SameSection(Section):
    """Ids of the table that mean one: each list is one patient (lesion, image), called by its first id."""

    patients: tuple[Annotated[Names, Field(min_length=2)], ...] = Field((), description="lists of patient ids")
    lesions: tuple[Annotated[Names, Field(min_length=2)], ...] = Field((), description="lists of lesion ids")

    @model_validator(mode="after")
    def _each_id_once(self) -> Self:
        for what in ("patients", "lesions"):
            ids = [name for names in getattr(self, what) for name in names]
            if twice := {name for name in ids if ids.count(name) > 1}:
                raise ValueError(f"{what}: {min(twice)} is listed twice; put all ids that mean one into one list")
        return self


class DataSection(Section):
    """Where the clinic's images are."""

    folder: str = Field(min_length=1, description="folder with the images and their table")
    sources: Literal["all"] | tuple[str, ...] = Field(
        "all", description="'all', or a list of names and patterns of sources that are this clinic's"
    )
    diagnoses: dict[str, str] = Field(
        {},
        description="words for diagnoses that docs/vocabulary.md does not have, each with a code or leave_out",
    )
    ids: Literal["scoped", "shared"] = Field(
        "scoped", description="whether equal ids of patients in several sources are other people's, or shared: one's"
    )
    same: SameSection = SameSection()

    @model_validator(mode="after")
    def _codes_that_there_are(self) -> Self:
        if self.diagnoses:
            self.read_options()
        return self

    def read_options(self) -> "ReadOptions":
        """Return what is said about the table that it does not say itself. Raises ValueError for no code."""
        from melfed.common.data.tables.rows import ReadOptions
        from melfed.common.data.vocabulary.diagnoses import checked_mapping

        try:
            return ReadOptions(checked_mapping(self.diagnoses), shared_ids=self.ids == "shared")
        except DataError as error:
            raise ValueError(str(error)) from None


class ResourcesSection(Section):
    """What training may use."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the worker; null: all cores")


class MessengerSection(Section):
    """The processes that carry messages; they never see the data."""

    user: str | None = Field(None, min_length=1, description="OS user that `start`, run as root, gives them")
    port: Port = Field(9094, description="loopback port between SuperNode and messenger")


class TellSection(Section):
    """What the coordinator's `status` may show of this clinic, beyond what a study needs."""

    budget: bool = Field(False, description="how much ε is left (not: what all studies have cost)")
    approved: bool = Field(True, description="digests of the approved studies")
    round_time: bool = Field(
        True,
        description="how long a round of an approved study may take here, a power of two of minutes, timed on "
        "synthetic images",
    )
    units: int | None = Field(
        None, ge=1, le=10_000_000, description="patients (or whatever a study protects) that the clinic says it has"
    )
    positive_units: int | None = Field(None, ge=0, le=10_000_000, description="how many of these are positive")

    @model_validator(mode="after")
    def _both_figures(self) -> Self:
        if (self.units is None) != (self.positive_units is None):
            raise ValueError("state both units and positive_units, or neither")
        if self.units is not None and self.positive_units is not None and self.positive_units > self.units:
            raise ValueError(f"positive_units is {self.positive_units}, which is more than units, {self.units}")
        return self


class ClinicFile(Section):
    """The sections of `clinic.yaml`."""

    name: str | None = Field(
        None, pattern=NAME, description="what the coordinator calls this clinic; part of its certificate"
    )
    coordinator: CoordinatorSection | None = Field(None, description="where the coordinator's server is")
    data: DataSection | None = Field(None, description="where the images are")
    state: str = Field("state", min_length=1, description="folder for ledger, approvals, caches, sockets and logs")
    weights: str = Field("weights", min_length=1, description="folder of pretrained weights and warm starts")
    resources: ResourcesSection = ResourcesSection()
    messenger: MessengerSection = MessengerSection()
    tell: TellSection = TellSection()
    apps: tuple[Digest, ...] = Field((), description="SHA-256 of the app bundles that may run here; a kit names one")
    health_port: Port | None = Field(9095, description="loopback port of the gRPC health service; null: none")
    metrics_port: Port | None = Field(9464, description="loopback port for Prometheus; null: none")
    policy: ClinicPolicy = Field(description="the limits that this clinic sets to every study")


CLINIC = Form(ClinicFile, "clinic configuration", "'name:' and 'policy:'", PolicyError)


@dataclass(frozen=True)
class ClinicConfig:
    """A clinic's configuration with all paths made absolute.

    The state folder has two halves: `worker_state` is for the data user alone (ledger, approvals, stored replies,
    audit log), `messenger_state` for the messenger (Flower's files). `run` holds the socket between the two.
    """

    path: Path
    file: ClinicFile

    @property
    def folder(self) -> Path:
        """The kit: the folder that `clinic.yaml` is in."""
        return self.path.parent

    def _inside(self, part: str) -> Path:
        return Path(self.folder, Path(part).expanduser())

    @property
    def name(self) -> str:
        """The clinic's name. Raises PolicyError where the file states none."""
        return _stated(self.path, "name", self.file.name)

    @property
    def coordinator(self) -> CoordinatorSection:
        """Where the coordinator is. Raises PolicyError where the file does not say it."""
        return _stated(self.path, "coordinator", self.file.coordinator)

    @property
    def data(self) -> DataSection:
        """Where the images are, as the file states it. Raises PolicyError where it does not."""
        return _stated(self.path, "data", self.file.data)

    @property
    def data_folder(self) -> Path:
        """The folder with the images and their table. Raises PolicyError as `data`."""
        return self._inside(self.data.folder)

    @property
    def policy(self) -> ClinicPolicy:
        """The policy as the file states it (approved studies are added by `melfed.client.approval.approvals`)."""
        return self.file.policy

    @property
    def state(self) -> Path:
        """Everything that the clinic's processes write."""
        return self._inside(self.file.state)

    @property
    def worker_state(self) -> Path:
        """For the worker's user alone, 0700."""
        return self.state / "worker"

    @property
    def messenger_state(self) -> Path:
        """For the messenger's user alone, 0700."""
        return self.state / "messenger"

    @property
    def run(self) -> Path:
        """For both: holds the socket."""
        return self.state / "run"

    @property
    def socket(self) -> Path:
        """The worker's Unix socket."""
        return self.run / "worker.sock"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.worker_state / "ledger.jsonl"

    @property
    def audit_log(self) -> Path:
        """The worker's audit log."""
        return self.worker_state / "audit.jsonl"

    @property
    def messenger_audit_log(self) -> Path:
        """The audit log of the processes that may not write to the worker's."""
        return self.messenger_state / "audit.jsonl"

    @property
    def approvals(self) -> Path:
        """The approved studies, two files each: who approved it when, and the study itself where it was given."""
        return self.worker_state / "approvals"

    @property
    def models(self) -> Path:
        """The models that the coordinator has sent, a file each."""
        return self.worker_state / "models"

    @property
    def superexec_secret(self) -> Path:
        """The secret between SuperNode and messenger, 0600, made anew with every start."""
        return self.messenger_state / "superexec.secret"

    @property
    def cache(self) -> Path:
        """Decoded images and features."""
        return self.worker_state / "cache"

    @property
    def weights(self) -> Path:
        """Where pretrained weights are looked for."""
        return self._inside(self.file.weights)

    @property
    def weights_folder(self) -> Path | None:
        """That folder, where there is one: weights may also be in an installed package."""
        return self.weights if self.weights.is_dir() else None

    @property
    def ca_certificate(self) -> Path:
        """The consortium's CA certificate."""
        return self._inside("ca.crt")

    @property
    def certificate(self) -> Path:
        """The clinic's TLS certificate."""
        return self._inside("clinic.crt")

    @property
    def certificate_key(self) -> Path:
        """Its private key, 0600."""
        return self._inside("clinic.key")

    @property
    def node_key(self) -> Path:
        """The key that Flower knows the clinic by, 0600 (OpenSSH format, ECDSA P-384)."""
        return self._inside("node.key")


def read_clinic(path: Path, *, complete: bool = True) -> ClinicConfig:
    """Read the `clinic.yaml` of a deployed clinic.

    Args:
        path: the file.
        complete: name, coordinator and data must be there; otherwise what asks for them later is what raises.

    Raises:
        PolicyError: in one line, with file, line and key of what is wrong and what is allowed.
    """
    file = _read(path)
    for key in ("name", "coordinator", "data") if complete else ():
        _stated(path, key, getattr(file, key))
    return ClinicConfig(path.resolve(), file)


def read_policy(path: Path) -> ClinicPolicy:
    """Read the policy of a clinic from its `clinic.yaml`; all other sections may be missing.

    Raises:
        PolicyError: in one line, with file, line and key of what is wrong and what is allowed.
    """
    return _read(path).policy


def read_apps(path: Path) -> tuple[Digest, ...]:
    """Read which app bundles a clinic lets run, as its `clinic.yaml` lists them now. Raises PolicyError."""
    return _read(path).apps


def without_folder(error: PolicyError) -> str:
    """Return what an error says of a file, by its name alone: an audit log would leave its path out, line and all."""
    place, colon, text = str(error).partition(": ")
    return f"{Path(place).name}{colon}{text}"


def find_clinic(option: Path | None = None) -> Path:
    """Return where the clinic's `clinic.yaml` is: as named, else by `MELFED_CLINIC`, else here, else in /etc/melfed.

    Args:
        option: what the command line names: the file, or the folder that it is in.

    Raises:
        PolicyError: there is none; says where was looked.
    """
    environment = os.environ.get(ENVIRONMENT)
    if option is not None:
        return _named(option, "")
    if environment:
        return _named(Path(environment), f" ({ENVIRONMENT})")
    for place in PLACES:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in PLACES)
    raise PolicyError(f"no clinic.yaml here: looked for {looked}; name it with --config or {ENVIRONMENT}")


def _named(place: Path, how: str) -> Path:
    path = place.expanduser()
    path = path / "clinic.yaml" if path.is_dir() else path
    if not path.is_file():
        raise PolicyError(f"{path}{how}: no such file; name the clinic.yaml of this clinic's kit")
    return path


def _read(path: Path) -> ClinicFile:
    content, places = CLINIC.read(path)
    return CLINIC.validate(content, places, str(path))


def _stated(path: Path, key: str, value: Value | None) -> Value:
    if value is None:
        description = ClinicFile.model_fields[key].description
        raise PolicyError(f"{path}: {key} is missing: {description}; only simulations do without")
    return value
