"""A clinic's kit, and a coordinator's door of a few lines, for the tests of the doctors."""

import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from melfed.client.config.clinic import ClinicConfig, read_clinic
from melfed.server.clinics.certificates import (
    Pair,
    make_authority,
    make_clinic_certificate,
    make_node_key,
    make_server_certificate,
    public_line,
)
from melfed.server.clinics.registry import ClinicRecord
from melfed.server.config import ServerConfig, read_server
from melfed.server.flower.app_bundle import build_bundle

AUTHORITY = make_authority("consortium")
NODE_KEY = make_node_key()
LATER = "2099-01-01T00:00:00+00:00"

CLINIC_YAML = """\
name: north
coordinator: {{host: {host}, port: {port}}}
data: {{folder: {data}}}
resources: {{device: cpu}}
apps: ["{app}"]
policy: {{epsilon: 3, delta: 1.0e-5}}
"""


def write_private(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
Kit = Callable[..., ClinicConfig]


def make_kit(folder: Path, data: Path, host: str = "127.0.0.1", port: int = 1, days: int = 300) -> ClinicConfig:
    """A clinic's kit with its own certificate and keys."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clinic.yaml").write_text(CLINIC_YAML.format(host=host, port=port, data=data, app="ab" * 32))
    (folder / "clinic.yaml").chmod(0o644)
    own = make_clinic_certificate(AUTHORITY, "consortium", "north", days)
    (folder / "ca.crt").write_bytes(AUTHORITY.certificate)
    (folder / "clinic.crt").write_bytes(own.certificate)
    write_private(folder / "clinic.key", own.key)
    write_private(folder / "node.key", NODE_KEY)
    (folder / "state" / "worker").mkdir(mode=0o700, parents=True)
    (folder / "state" / "messenger").mkdir(mode=0o700)
    return read_clinic(folder / "clinic.yaml")


def server_kit(folder: Path, days: int = 300) -> ServerConfig:
    """A coordinator's kit of the same consortium, on free ports."""
    folder.mkdir(parents=True, exist_ok=True)
    edge, superlink, health, metrics = (closed_port() for _ in range(4))
    (folder / "server.yaml").write_text(
        f"name: consortium\nedge: {{address: 127.0.0.1, port: {edge}}}\nsuperlink_port: {superlink}\n"
        f"health_port: {health}\nmetrics_port: {metrics}\n"
    )
    (folder / "server.yaml").chmod(0o644)
    pair = make_server_certificate(AUTHORITY, "consortium", ["coordinator.example"], days)
    (folder / "ca.crt").write_bytes(AUTHORITY.certificate)
    (folder / "server.crt").write_bytes(pair.certificate)
    write_private(folder / "server.key", pair.key)
    write_private(folder / "superexec.secret", b"0123456789abcdef" * 4)
    (folder / "melfed.fab").write_bytes(build_bundle())
    for name in ("clinics", "state", "runs"):
        (folder / name).mkdir(mode=0o700)
    return read_server(folder / "server.yaml")


def record_of(name: str, node_key: bytes | None = None) -> ClinicRecord:
    """A clinic's record, of a key of its own unless one is given."""
    return ClinicRecord(
        name=name,
        node_key=public_line(node_key or make_node_key()),
        serial=secrets.token_hex(16).upper(),
        not_after=LATER,
        approved_at=LATER,
    )


def edit(config: ClinicConfig, before: str, after: str) -> ClinicConfig:
    """The same kit with some text of its clinic.yaml replaced."""
    text = config.path.read_text()
    assert before in text
    config.path.write_text(text.replace(before, after))
    return read_clinic(config.path)


@contextmanager
def door(
    folder: Path,
    *,
    status: int = 401,
    skew: float = 0.0,
    date: str | None = None,
    headers: Mapping[str, str] | None = None,
    pair: Pair | None = None,
    verify: ssl.VerifyMode = ssl.CERT_OPTIONAL,
    address: str = "127.0.0.1",
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """An HTTPS server on a free port, whose clock is `skew` seconds ahead; yields the port and what was asked.

    Who shows no certificate is answered with 400, as nginx does.
    """
    pair = pair or make_server_certificate(AUTHORITY, "consortium", ["coordinator.example"], 300)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.crt").write_bytes(pair.certificate)
    write_private(folder / "server.key", pair.key)
    (folder / "ca.crt").write_bytes(AUTHORITY.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = verify
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            shown = self.connection.getpeercert()
            asked.append({"path": self.path, "certificate": bool(shown), "key": self.headers.get("flwr-public-key")})
            self.send_response_only(status if shown else 400)
            now = datetime.now(UTC) + timedelta(seconds=skew)
            self.send_header("Date", format_datetime(now, usegmt=True) if date is None else date)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def get_request(self) -> tuple[socket.socket, Any]:
            connection, address = super().get_request()
            connection.settimeout(5)
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *_: object) -> None:
            pass

    server = Server((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
