"""The edge, as a real nginx in front of a small HTTPS server: who gets through, with what, and what others see."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from melfed.common.errors import ServiceError
from melfed.server.clinics.certificates import Pair, key_header, make_authority, make_clinic_certificate, public_line
from melfed.server.clinics.registry import approve, read_clinics, replace_certificate, revoke
from melfed.server.config import BODY_HEADER, OBJECTS, PUSH, ServerConfig, read_server
from melfed.server.edge.nginx import Edge, edge_ready, nginx_complaint
from melfed.server.edge.nginx_conf import FLEET, Timeouts
from melfed.server.flower.key_holders import ADDRESS_HEADER, KEY_HEADER
from melfed.server.provisioning.provision import provision
from tests.server.kits import consortium_file, free_port

HEADER_SECONDS = 2
PULL = "/v1/fleet/pull-messages"
CLINICS = ("amsterdam", "berlin", "coimbra")

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None, reason="nginx is not installed"
)


class Upstream(ThreadingHTTPServer):
    """In the SuperLink's place: keeps what comes, answers with the length of the body."""

    daemon_threads = True

    def __init__(self, config: ServerConfig) -> None:
        self.requests: list[tuple[str, dict[str, list[str]], int]] = []
        self.redirect = ""
        super().__init__(("127.0.0.1", config.file.superlink_port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.certificate, config.certificate_key)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if named := self.headers.get(BODY_HEADER):
            body = Path(named).read_bytes()
        headers = {name.lower(): self.headers.get_all(name, []) for name in self.headers}
        assert isinstance(self.server, Upstream)
        self.server.requests.append((self.path, headers, len(body)))
        answer = str(len(body)).encode()
        self.send_response(200)
        if self.server.redirect:
            self.send_header("X-Accel-Redirect", self.server.redirect)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Client:
    """Speaks to the edge as a clinic, or as less."""

    config: ServerConfig
    certificate: Path | None = None
    key: Path | None = None
    header: str | None = None
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = ssl.create_default_context(cafile=str(self.config.ca_certificate))
        if self.certificate is not None:
            self.context.load_cert_chain(self.certificate, self.key)

    def ask(
        self, path: str = PULL, method: str = "POST", body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.config.file.edge.port, timeout=10, context=self.context
        )
        try:
            own = {} if self.header is None else {KEY_HEADER: self.header}
            connection.request(method, path, body, {**own, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def status(self, *arguments: object, **options: object) -> int:
        return self.ask(*arguments, **options)[0]  # type: ignore[arg-type]

    def tls(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.config.file.edge.port), 10)
        return self.context.wrap_socket(plain, server_hostname="127.0.0.1")


@dataclass
class Stack:
    """A running edge, its upstream and the consortium's kits."""

    kits: Path
    config: ServerConfig
    edge: Edge
    upstream: Upstream
    process: "subprocess.Popen[bytes] | None" = None

    def header(self, clinic: str) -> str:
        return key_header(public_line((self.kits / "clinics" / clinic / "node.key").read_bytes()))

    def clinic(self, name: str, header: str | None = None) -> Client:
        folder = self.kits / "clinics" / name
        return Client(self.config, folder / "clinic.crt", folder / "clinic.key", header or self.header(name))

    def with_pair(self, pair: Pair, header: str) -> Client:
        certificate, key = self.kits / "other.crt", self.kits / "other.key"
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        return Client(self.config, certificate, key, header)

    def reload(self) -> None:
        """Tell nginx of changed clinics, and wait until it goes by them: new workers have other process ids."""
        assert self.process is not None
        assert self.edge.write(read_clinics(self.config.clinics))
        before = children(self.process.pid)
        assert self.edge.reload()
        assert until(lambda: not before & children(self.process.pid))  # type: ignore[union-attr]

    def start(self) -> None:
        self.process = subprocess.Popen(self.edge.command(), start_new_session=True)
        assert until(lambda: edge_ready(self.config))

    def stop(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            # Its workers have the port until they are gone too.
            assert until(lambda: not _has_processes(self.process.pid))  # type: ignore[union-attr]
            self.process = None


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def until(holds: "object", seconds: float = 60) -> bool:
    """Whether a condition comes to hold in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def children(process: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()}


def make_stack(folder: Path, body_seconds: int = 1, **edge: object) -> Stack:
    kits = folder / "kits"
    ports = {"port": free_port(), "superlink_port": free_port()}
    server = {"names": ["edge.example.org", "127.0.0.1"], "address": "127.0.0.1", **ports}
    provision(consortium_file(folder, *CLINICS, server=server), kits)
    path = kits / "server" / "server.yaml"
    content = yaml.safe_load(path.read_text())
    content["edge"] |= edge
    path.write_text(yaml.safe_dump(content))
    config = read_server(path)
    upstream = Upstream(config)
    threading.Thread(target=upstream.serve_forever, args=(0.05,), daemon=True).start()
    stack = Stack(kits, config, Edge(config, Timeouts(header=HEADER_SECONDS, body=body_seconds)), upstream)
    assert not edge_ready(config)
    assert stack.edge.write(read_clinics(config.clinics))
    stack.start()
    return stack


def end_stack(stack: Stack) -> None:
    stack.stop()
    stack.upstream.shutdown()
    stack.upstream.server_close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = make_stack(tmp_path_factory.mktemp("edge"), largest_body_mb=20)
    yield made
    end_stack(made)


@pytest.fixture
def good(stack: Stack) -> Iterator[Client]:
    """A clinic in good standing: it gets through before, and after whatever the test does."""
    client = stack.clinic("amsterdam")
    assert client.ask()[:2] == (200, b"0")
    yield client
    assert client.ask()[:2] == (200, b"0")


def seen(stack: Stack) -> int:
    return len(stack.upstream.requests)


@needs_nginx
def test_a_clinic_gets_through_with_its_tensors(stack: Stack, good: Client) -> None:
    for name in FLEET:
        assert good.status(f"/v1/fleet/{name}") == 200
    size = 9 * 2**20
    status, answer, headers = good.ask("/v1/fleet/push-object", body=bytes(size))
    assert (status, answer) == (200, str(size).encode())
    assert "melfed/" in headers["Melfed-Versions"]
    path, forwarded, length = stack.upstream.requests[-1]
    assert (path, length) == ("/v1/fleet/push-object", size)
    assert forwarded[KEY_HEADER] == [good.header]
    assert forwarded["host"] == ["localhost"]
    assert forwarded[ADDRESS_HEADER] == ["127.0.0.1"]
    (named,) = map(Path, forwarded[BODY_HEADER])
    assert named.parent == stack.config.state / "nginx" / "client_body"
    assert until(lambda: not named.exists()), "it goes with its request, whose answer nginx sends first"


@needs_nginx
def test_no_clinic_names_a_file(stack: Stack, good: Client) -> None:
    key = str(stack.config.certificate_key)
    for name in FLEET:
        assert good.ask(f"/v1/fleet/{name}", headers={BODY_HEADER: key})[:2] == (200, b"0")
        found = stack.upstream.requests[-1][1].get(BODY_HEADER, [])
        assert key not in found
        assert bool(found) == (name == PUSH)


@needs_nginx
def test_an_object_that_the_superlink_names_is_sent_and_nobody_asks_for_one(stack: Stack, good: Client) -> None:
    name, content = "a" * 64, bytes(3 * 2**20) + b"end"
    (stack.config.state / "objects").mkdir(exist_ok=True)
    (stack.config.state / "objects" / name).write_bytes(content)
    for path in (f"{OBJECTS}{name}", OBJECTS, f"{OBJECTS}../nginx/nginx.conf"):
        assert good.status(path) == 404
    stack.upstream.redirect = f"{OBJECTS}{name}"
    try:
        assert good.ask("/v1/fleet/pull-object")[:2] == (200, content)
        stack.upstream.redirect = f"{OBJECTS}{'b' * 64}"
        assert good.status("/v1/fleet/pull-object") == 404
    finally:
        stack.upstream.redirect = ""


@needs_nginx
def test_the_superlink_gets_the_address_of_the_connection_whatever_a_client_says(stack: Stack, good: Client) -> None:
    with good.tls() as line:
        lines = [f"POST {PULL} HTTP/1.1", "Host: x", f"{KEY_HEADER}: {good.header}", f"{ADDRESS_HEADER}: 9.9.9.9"]
        line.sendall("\r\n".join([*lines, "Content-Length: 0", "Connection: close", "", ""]).encode())
        assert b" 200 " in line.recv(64)
    assert stack.upstream.requests[-1][1][ADDRESS_HEADER] == ["127.0.0.1"]


@needs_nginx
def test_the_superlink_gets_the_certificates_key_however_the_header_is_written(stack: Stack, good: Client) -> None:
    other = stack.header("berlin")
    before = seen(stack)
    with good.tls() as line:
        lines = [f"POST {PULL} HTTP/1.1", "Host: x", f"{KEY_HEADER}: {good.header}", f"{KEY_HEADER}: {other}"]
        line.sendall("\r\n".join([*lines, "Content-Length: 0", "Connection: close", "", ""]).encode())
        answer = line.recv(64)
    assert b" 200 " in answer
    assert seen(stack) == before + 1
    assert stack.upstream.requests[-1][1][KEY_HEADER] == [good.header]


@needs_nginx
def test_strangers_are_refused(stack: Stack, good: Client) -> None:
    key = stack.header("amsterdam")
    before = seen(stack)
    authority, server = stack.kits / "authority", stack.kits / "server"
    ours = Pair((authority / "ca.crt").read_bytes(), (authority / "ca.key").read_bytes())
    strangers = {
        "only the CA's certificate": Client(stack.config, header=key),
        "a certificate of another CA of the same name": stack.with_pair(
            make_clinic_certificate(make_authority("test"), "test", "amsterdam", 365), key
        ),
    }
    for who, stranger in strangers.items():
        for path in (PULL, "/health", "/v1/control/start-run"):
            status, body, _ = stranger.ask(path)
            assert (status, body) == (400, b""), who
    # One at a time: their files have the same names.
    expired = stack.with_pair(make_clinic_certificate(ours, "test", "amsterdam", -1), key)
    assert expired.ask()[:2] == (400, b"")
    unknown = stack.with_pair(make_clinic_certificate(ours, "test", "amsterdam", 365), key)
    assert unknown.ask()[:2] == (403, b"")
    # Nor without a key, as which it is known.
    for header in (None, ""):
        assert Client(stack.config, unknown.certificate, unknown.key, header).status() == 403
    servers_own = Client(stack.config, server / "server.crt", server / "server.key", key)
    assert servers_own.status() == 400
    assert seen(stack) == before


@needs_nginx
def test_another_clinics_request_is_not_replayed(stack: Stack, good: Client) -> None:
    before = seen(stack)
    for header in (stack.header("amsterdam"), "", "x", stack.header("berlin").swapcase()):
        assert Client(stack.config, *key_files(stack, "berlin"), header=header).ask()[:2] == (403, b"")
    assert Client(stack.config, *key_files(stack, "berlin")).status() == 403
    assert seen(stack) == before
    assert stack.clinic("berlin").status() == 200


def key_files(stack: Stack, clinic: str) -> tuple[Path, Path]:
    folder = stack.kits / "clinics" / clinic
    return folder / "clinic.crt", folder / "clinic.key"


HIDDEN = [
    "/",
    "/health",
    "/docs",
    "/openapi.json",
    "/v1/control/start-run",
    "/v1/control/list-nodes",
    "/v1/runtime/pull-messages",
    "/v1/fleet/",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages?x=1",
    "/v1/fleet/pull%2Dmessages",
    "//v1/fleet/pull-messages",
    "/v1/fleet/../control/start-run",
    "/v1/control/../fleet/pull-messages",
    "/v1/fleet/..%2fcontrol/start-run",
    "/v1/fleet/pull-messages/%2e%2e/%2e%2e/control/start-run",
    "/v1/fleet/start-run",
    "http://other.example/v1/control/start-run",
]


@needs_nginx
@pytest.mark.parametrize("path", HIDDEN)
def test_nothing_but_the_fleets_paths_exists_for_a_clinic_either(stack: Stack, good: Client, path: str) -> None:
    before = seen(stack)
    assert good.ask(path)[:2] == (404, b"")
    assert seen(stack) == before


@needs_nginx
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post"])
def test_nothing_but_post_goes_through(stack: Stack, good: Client, method: str) -> None:
    before = seen(stack)
    status, body, headers = good.ask(method=method)
    assert status == {"TRACE": 405, "CONNECT": 405, "post": 400}.get(method, 404)
    assert body == b""
    assert headers["Server"] == "nginx"
    assert seen(stack) == before


@needs_nginx
@pytest.mark.parametrize(
    "text",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/9.1\r\nHost: x\r\n\r\n",
        b"POST /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["bytes", "dots", "version", "long path", "long header", "encoding", "smuggling"],
)
def test_what_is_malformed_gets_a_number_and_no_page(stack: Stack, good: Client, text: bytes) -> None:
    before = seen(stack)
    with good.tls() as line:
        line.sendall(text)
        answer = http.client.HTTPResponse(line)
        answer.begin()
        assert answer.status in (400, 414, 494, 501, 505)
        assert answer.read() == b""
    assert seen(stack) == before


@needs_nginx
def test_an_oversized_body_is_refused_before_it_is_sent(stack: Stack, good: Client) -> None:
    before = seen(stack)
    with good.tls() as line:
        head = [f"POST {PULL} HTTP/1.1", "Host: x", f"{KEY_HEADER}: {good.header}", f"Content-Length: {30 * 2**20}"]
        line.sendall("\r\n".join([*head, "", ""]).encode())
        assert b" 413 " in line.recv(64)
    assert seen(stack) == before


@needs_nginx
@pytest.mark.parametrize("known", [True, False])
def test_trickled_headers_are_cut_off(stack: Stack, good: Client, known: bool) -> None:
    client = good if known else Client(stack.config)
    lines = [client.tls() for _ in range(20)]
    start = time.monotonic()
    try:
        for line in lines:
            line.sendall(f"POST {PULL} HTTP/1.1\r\nHost: x\r\n".encode())
        open_lines = list(lines)
        while open_lines and time.monotonic() - start < HEADER_SECONDS + 8:
            for line in list(open_lines):
                try:
                    line.sendall(b"X-Slow: 1\r\n")
                    line.settimeout(0.01)
                    if not line.recv(4096):
                        open_lines.remove(line)
                except TimeoutError:
                    continue
                except OSError:
                    open_lines.remove(line)
            assert good.status() == 200
        assert not open_lines
    finally:
        for line in lines:
            line.close()
    assert time.monotonic() - start < HEADER_SECONDS + 8


@needs_nginx
def test_a_handshake_that_does_not_come_and_a_body_that_stops_are_cut_off(stack: Stack, good: Client) -> None:
    silent = socket.create_connection(("127.0.0.1", stack.config.file.edge.port), 10)
    before = seen(stack)
    with silent, good.tls() as line:
        head = [f"POST {PULL} HTTP/1.1", "Host: x", f"{KEY_HEADER}: {good.header}", "Content-Length: 100"]
        line.sendall(("\r\n".join([*head, "", ""]) + "half").encode())
        assert good.status() == 200
        assert b" 408 " in line.recv(64) or line.recv(64) == b""
        assert silent.recv(64) == b""
    assert seen(stack) == before + 1


@needs_nginx
def test_plain_http_and_old_tls_are_refused(stack: Stack, good: Client) -> None:
    before = seen(stack)
    with socket.create_connection(("127.0.0.1", stack.config.file.edge.port), 10) as line:
        line.sendall(f"POST {PULL} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        answer = line.recv(4096)
    assert b" 400 " in answer
    assert answer.endswith(b"\r\n\r\n")  # no page
    old = stack.clinic("amsterdam")
    old.context.set_ciphers("ALL:@SECLEVEL=0")
    old.context.minimum_version = ssl.TLSVersion.TLSv1_1
    old.context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):  # noqa: PT011 (its text is OpenSSL's)
        old.ask()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = stack.clinic("amsterdam")
        client.context.minimum_version = client.context.maximum_version = version
        assert client.status() == 200
    assert seen(stack) == before + 2


@needs_nginx
def test_a_clinic_is_revoked_renewed_and_let_in_again_while_others_go_on(stack: Stack, good: Client) -> None:
    folder, clinic = stack.config.clinics, stack.clinic("coimbra")
    assert clinic.status() == 200
    revoke(folder, "coimbra")
    stack.reload()
    assert clinic.ask()[:2] == (403, b"")
    approve(folder, folder / "coimbra.json")
    stack.reload()
    assert clinic.status() == 200
    # The renewed certificate and the one before both do, until the clinic has installed it.
    provision(stack.kits.parent / "consortium.yaml", stack.kits, renew="berlin")
    stack.reload()
    assert stack.clinic("berlin").status() == 200
    assert not stack.edge.write(read_clinics(folder))


@needs_nginx
def test_a_certificate_before_a_renewal_still_does(stack: Stack, good: Client) -> None:
    old = stack.clinic("berlin")
    provision(stack.kits.parent / "consortium.yaml", stack.kits, renew="berlin")
    stack.reload()
    assert old.status() == stack.clinic("berlin").status() == 200
    replaced = revoke(stack.config.clinics, "berlin")
    replace_certificate(stack.config.clinics, "berlin", "AB" * 20, replaced.not_after)
    stack.reload()
    assert old.status() == stack.clinic("berlin").status() == 403
    provision(stack.kits.parent / "consortium.yaml", stack.kits, renew="berlin")
    approve(stack.config.clinics, stack.config.clinics / "berlin.json")
    stack.reload()
    assert (old.status(), stack.clinic("berlin").status()) == (403, 200)


@needs_nginx
def test_the_log_tells_who_and_what_but_no_query_and_no_poll(stack: Stack, good: Client) -> None:
    good.status("/v1/fleet/get-run?secret=1")
    good.status("/v1/fleet/get-run")
    log = stack.edge.folder / "access.log"
    assert until(lambda: '"path":"/v1/fleet/get-run","status":"200"' in log.read_text())
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert "secret" not in log.read_text()
    assert rows[-1]["clinic"] == "amsterdam"
    assert not [row for row in rows if row["path"] == PULL and row["status"] == "200"]
    assert stack.header("amsterdam") not in log.read_text()
    assert not stack.edge.trim_logs()
    assert stack.edge.trim_logs(largest=10)
    assert until(log.exists)
    assert good.status("/v1/fleet/get-run") == 200
    assert until(lambda: len(log.read_text().splitlines()) == 1)


@needs_nginx
def test_a_stranger_cannot_fill_the_log(stack: Stack, good: Client) -> None:
    """What it writes is not written down; and what a clinic of the consortium writes is cut."""
    log = stack.edge.folder / "access.log"
    before = log.stat().st_size
    long = "/" + "x" * 7_000
    assert Client(stack.config).status(long) == 400
    assert Client(stack.config).status(PULL, "X" * 7_000) == 400
    assert good.status(long) == 404
    assert until(lambda: log.read_bytes()[before:].count(b"\n") == 3)
    rows = [json.loads(line) for line in log.read_bytes()[before:].splitlines()]
    assert [(row["method"], row["path"]) for row in rows] == [("POST", "-"), ("-", "-"), ("POST", long[:200])]
    assert max(map(len, log.read_bytes()[before:].splitlines())) < 500
    assert "x" * 100 not in (stack.edge.folder / "error.log").read_text()


@needs_nginx
def test_too_many_requests_of_one_clinic_are_refused_and_another_goes_on(tmp_path: Path) -> None:
    stack = make_stack(tmp_path, requests_per_second=2)
    try:
        eager, other = stack.clinic("amsterdam"), stack.clinic("berlin")
        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(eager.status) for _ in range(16)]
            assert other.status() == 200
            statuses = sorted(each.result() for each in answers)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= 11
        assert other.status() == 200
    finally:
        end_stack(stack)


@needs_nginx
def test_one_address_has_so_many_connections(tmp_path: Path) -> None:
    stack = make_stack(tmp_path, body_seconds=30, connections=2)
    try:
        client = stack.clinic("amsterdam")
        lines = [client.tls() for _ in range(2)]
        head = [f"POST {PULL} HTTP/1.1", "Host: x", f"{KEY_HEADER}: {client.header}", "Content-Length: 9"]
        for line in lines:
            line.sendall("\r\n".join([*head, "", ""]).encode())
        assert until(lambda: client.status() == 429)
        for line in lines:
            line.close()
        assert until(lambda: client.status() == 200)
    finally:
        end_stack(stack)


@needs_nginx
def test_without_a_superlink_the_edge_says_502_and_flowers_client_tries_again(tmp_path: Path) -> None:
    stack = make_stack(tmp_path)
    try:
        stack.upstream.shutdown()
        stack.upstream.server_close()
        assert stack.clinic("amsterdam").ask()[:2] == (502, b"")
    finally:
        stack.stop()


@needs_nginx
def test_tensors_go_to_the_superlink_that_has_the_consortiums_certificate_alone(tmp_path: Path) -> None:
    stack, impostor = make_stack(tmp_path), make_stack(tmp_path_below(tmp_path, "impostor"))
    try:
        # Another program gets hold of the SuperLink's port.
        path = stack.config.path
        content = yaml.safe_load(path.read_text()) | {"superlink_port": impostor.config.file.superlink_port}
        path.write_text(yaml.safe_dump(content))
        stack.edge = Edge(read_server(path))
        stack.reload()
        assert stack.clinic("amsterdam").ask(body=b"tensors")[:2] == (502, b"")
        assert not impostor.upstream.requests
    finally:
        end_stack(stack)
        end_stack(impostor)


def tmp_path_below(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


@needs_nginx
def test_nginx_can_be_killed_and_started_again(tmp_path: Path) -> None:
    stack = make_stack(tmp_path)
    try:
        stack.stop()
        assert not stack.edge.reload()
        assert until(lambda: not edge_ready(stack.config))
        stack.start()
        assert stack.clinic("berlin").status() == 200
    finally:
        end_stack(stack)


@needs_nginx
def test_another_program_on_the_port_is_not_the_edge_and_nginx_says_why_it_ends(tmp_path: Path) -> None:
    stack = make_stack(tmp_path_below(tmp_path, "a"))
    other = make_stack(tmp_path_below(tmp_path, "b"))
    port = stack.config.file.edge.port
    try:
        assert nginx_complaint(stack.config) == ""
        stack.stop()
        with socket.create_server(("127.0.0.1", port)):
            assert not edge_ready(stack.config, timeout=0.2)
            stack.config.logs.mkdir(parents=True)
            with (stack.config.logs / "nginx.log").open("wb") as log:
                ended = subprocess.run(stack.edge.command(), stderr=log, timeout=60, check=False)
        assert ended.returncode != 0
        assert nginx_complaint(stack.config).startswith(
            f"bind() to 127.0.0.1:{port} failed (98: Address already in use)"
        )
        assert nginx_complaint(stack.config).count("bind()") == 2  # the second: could still not, after five times
        # Another consortium's edge speaks TLS on the port, and is not this one either.
        moved = stack.config.file.edge.model_copy(update={"port": other.config.file.edge.port})
        strange = ServerConfig(stack.config.path, stack.config.file.model_copy(update={"edge": moved}))
        assert edge_ready(other.config)
        assert not edge_ready(strange)
    finally:
        end_stack(stack)
        end_stack(other)


@needs_nginx
def test_workers_that_outlive_their_master_are_ended(tmp_path: Path) -> None:
    stack, other = make_stack(tmp_path_below(tmp_path, "a")), make_stack(tmp_path_below(tmp_path, "b"))
    try:
        assert stack.process is not None
        workers = children(stack.process.pid)
        stack.process.kill()
        stack.process.wait(10)
        assert edge_ready(stack.config)
        assert stack.edge.end_leftovers() == len(workers)
        assert until(lambda: not edge_ready(stack.config))
        assert stack.edge.end_leftovers() == 0
        stack.start()
        assert stack.clinic("berlin").status() == 200
        assert other.clinic("berlin").status() == 200
    finally:
        end_stack(stack)
        end_stack(other)


@needs_nginx
def test_what_nginx_refuses_is_not_written(tmp_path: Path) -> None:
    stack = make_stack(tmp_path)
    try:
        before = stack.edge.configuration.read_text()
        stack.config.certificate.write_text("no certificate")
        with pytest.raises(ServiceError, match=r"nginx refuses its configuration.*server\.crt"):
            stack.edge.write(())
        assert stack.edge.configuration.read_text() == before
    finally:
        end_stack(stack)


def kit(folder: Path, **edge: object) -> ServerConfig:
    provision(consortium_file(folder, "amsterdam"), folder / "kits")
    path = folder / "kits" / "server" / "server.yaml"
    content = yaml.safe_load(path.read_text())
    content["edge"] |= edge
    path.write_text(yaml.safe_dump(content))
    return read_server(path)


def test_a_missing_program_is_told_in_one_line(tmp_path: Path) -> None:
    edge = Edge(kit(tmp_path, nginx="no-such-nginx"))
    with pytest.raises(ServiceError, match="no-such-nginx: no such program; install it"):
        edge.write(())
    with pytest.raises(ServiceError):
        edge.command()
