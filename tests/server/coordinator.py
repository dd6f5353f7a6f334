"""A coordinator's kit, provisioned as the command does it, on free ports."""

import socket
from pathlib import Path

import yaml

from melfed.server.clinics.registry import ClinicRecord, read_record
from melfed.server.config import ServerConfig, read_server
from melfed.server.provisioning.provision import provision


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_kits(folder: Path, clinics: str = "abc") -> ServerConfig:
    """Kits of a server and of clinics with names of one letter; `folder/clinics/NAME` is theirs."""
    edge, superlink, health, metrics = free_ports(4)
    ports = {"port": edge, "superlink_port": superlink, "health_port": health, "metrics_port": metrics}
    server = {"names": ["localhost"], "address": "127.0.0.1", **ports}
    content = {"name": "test", "server": server, "clinics": [{"name": name} for name in clinics]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "consortium.yaml").write_text(yaml.safe_dump(content))
    provision(folder / "consortium.yaml", folder)
    config = read_server(folder / "server" / "server.yaml")
    for path in (config.state, config.runs):
        path.mkdir(mode=0o700, exist_ok=True)
    return config


def record_of(config: ServerConfig, name: str) -> ClinicRecord:
    return read_record(config.clinics / f"{name}.json")


def node_key(config: ServerConfig, name: str) -> Path:
    return config.folder.parent / "clinics" / name / "node.key"
