"""The coordinator's configuration, `server.yaml`. Paths may be relative to the file's own folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from melfed.common.errors import ServerConfigError
from melfed.common.study.protocol import Section
from melfed.common.yaml_file import Form

PUSH = "push-object"
"""The request by which a clinic sends a piece of a message."""
BODY_HEADER = "melfed-body"
"""By it the edge tells SuperLink in which file of `client_body` the body is; a clinic's own header is left out."""
OBJECTS = "/objects/"
"""Below it the edge sends a clinic the file that SuperLink names in its answer, and nobody else anything."""

Port = Annotated[int, Field(ge=1, le=65_535)]


class EdgeSection(Section):
    """nginx, the only part that answers the outside."""

    address: str = Field("0.0.0.0", min_length=1, description="address to listen on")  # noqa: S104 (it is the edge)
    port: Port = Field(443, description="the one open port")
    nginx: str = Field("nginx", min_length=1, description="the nginx program")
    largest_body_mb: int = Field(64, ge=1, le=4096, description="largest request, MiB; Flower sends tensors in pieces")
    requests_per_second: int = Field(200, ge=1, le=100_000, description="a clinic's requests, beyond them 429")
    connections: int = Field(32, ge=1, le=10_000, description="simultaneous connections of one address")


class ServerFile(Section):
    """The sections of `server.yaml`."""

    name: str = Field("consortium", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="the consortium's name")
    edge: EdgeSection = EdgeSection()
    state: str = Field("state", min_length=1, description="folder for Flower's database, nginx's files, logs")
    runs: str = Field("runs", min_length=1, description="folder of the runs")
    weights: str = Field("weights", min_length=1, description="folder of pretrained weights and warm starts")
    superlink_port: Port = Field(9092, description="loopback port of Flower's SuperLink")
    health_port: Port | None = Field(9096, description="loopback port of the gRPC health service; null: none")
    metrics_port: Port | None = Field(9465, description="loopback port for Prometheus; null: none")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="who is told each round's pooled numbers: a list of tensorboard, mlflow, wandb"
    )


SERVER = Form(ServerFile, "server configuration", "'edge:' and 'runs:'", ServerConfigError)


@dataclass(frozen=True)
class ServerConfig:
    """The coordinator's configuration with all paths made absolute."""

    path: Path
    file: ServerFile

    @property
    def folder(self) -> Path:
        """The server's kit: the folder that `server.yaml` is in."""
        return self.path.parent

    def _inside(self, *parts: str) -> Path:
        return Path(self.folder, *parts)

    @property
    def state(self) -> Path:
        """Everything that the server writes, apart from runs; 0700."""
        return self._inside(self.file.state)

    @property
    def runs(self) -> Path:
        """The run folders."""
        return self._inside(self.file.runs)

    @property
    def weights(self) -> Path:
        """Where pretrained weights are looked for."""
        return self._inside(self.file.weights)

    @property
    def weights_folder(self) -> Path | None:
        """That folder, where there is one: a study may start from scratch, or from weights that are elsewhere."""
        return self.weights if self.weights.is_dir() else None

    @property
    def clinics(self) -> Path:
        """One JSON file a clinic: `melfed.server.clinics.registry.ClinicRecord`."""
        return self._inside("clinics")

    @property
    def ca_certificate(self) -> Path:
        """The consortium's CA certificate."""
        return self._inside("ca.crt")

    @property
    def certificate(self) -> Path:
        """The server's TLS certificate: its public names, localhost and 127.0.0.1."""
        return self._inside("server.crt")

    @property
    def certificate_key(self) -> Path:
        """Its private key, 0600."""
        return self._inside("server.key")

    @property
    def superexec_secret(self) -> Path:
        """The secret between SuperLink and superexec, 0600."""
        return self._inside("superexec.secret")

    @property
    def bundle(self) -> Path:
        """The app bundle that clinics have approved by its SHA-256."""
        return self._inside("melfed.fab")

    @property
    def audit_log(self) -> Path:
        """The server's audit log."""
        return self.state / "audit.jsonl"

    @property
    def clinics_said(self) -> Path:
        """What clinics last said of themselves."""
        return self.state / "clinics-said.json"

    @property
    def daemon_state(self) -> Path:
        """How the daemon and its children are, for `melfed-server status`."""
        return self.state / "daemon.json"

    @property
    def daemon_lock(self) -> Path:
        """Held by the daemon."""
        return self.state / "daemon.lock"

    @property
    def logs(self) -> Path:
        """Output of the daemon's children."""
        return self.state / "logs"

    @property
    def superlink(self) -> str:
        """Address of the SuperLink, on loopback."""
        return f"127.0.0.1:{self.file.superlink_port}"


def read_server(path: Path) -> ServerConfig:
    """Read `server.yaml`.

    Raises:
        ServerConfigError: in one line, with file, line and key of what is wrong and what is allowed.
    """
    content, places = SERVER.read(path)
    return ServerConfig(path.resolve(), SERVER.validate(content, places, str(path)))
