"""Strangers at the open port, while a whole federation trains: all are refused, and what was lost is nothing.

A stranger may have the CA's certificate, which is no secret; a certificate of another CA; one that has ended; that of a
clinic which was shut out; or be a clinic that would speak for another one, or would command.
"""

import base64
import contextlib
import datetime
import http.client
import ipaddress
import os
import re
import socket
import sqlite3
import ssl
import stat
import struct
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from melfed.server.clinics.certificates import Pair, make_authority, make_clinic_certificate, make_node_key, public_line
from tests.e2e.federation import Federation, needs_nginx, until
from tests.e2e.place import SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(600)]

A, B, REVOKED = CLINICS = ("phantom_north", "phantom_south", "phantom_east")
STUDY = f"""\
name: besieged
data: {{image_size: 48, sources: [{A}, {B}]}}
partition: {{by: source, minimum_images: 4}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.05, warmup_steps: 0, augment: false, batch_size: 8}}
federation: {{rounds: 10, deadline_seconds: 300}}
privacy: null
"""
HEARTBEAT = "/v1/fleet/send-node-heartbeat"


class Siege:
    """A federation that trains one run after the other, as long as there are strangers at its port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, []
        folder.mkdir()
        (folder / "all").mkdir()
        place = Federation.__new__(Federation)
        place.folder, place.environment = folder, dict(os.environ)
        place.run(SIM, "phantom", folder / "lesions", "--clinics", 3, "--images", 90, "--size", 48)
        self.federation = Federation(folder / "all", folder / "lesions", CLINICS, {"non_private": True})
        # As a coordinator has it: reachable from everywhere, so that what is bound elsewhere can be told from it.
        path = self.federation.server / "server.yaml"
        content = yaml.safe_load(path.read_text())
        content["edge"]["address"] = "0.0.0.0"
        path.write_text(yaml.safe_dump(content))
        self.port = self.federation.ports["edge"]
        self.sealed = self.federation.folder / "sealed.yaml"

    def begin(self) -> None:
        """Start the server and two clinics, and have both approve the study; the third is never there."""
        federation = self.federation
        federation.start_server()
        for clinic in (A, B):
            federation.start_clinic(clinic)
        study = federation.folder / "study.yaml"
        study.write_text(STUDY)
        federation.run(SERVER, "study", study, "--out", self.sealed)
        for clinic in (A, B):
            federation.clinic(clinic, "approve", self.sealed)
        federation.wait_online(A, B)

    def keep_busy(self) -> None:
        """See to it that a run is under way."""
        if self.runs and self.federation.state(self.runs[-1])["status"] in ("queued", "running"):
            return
        self.runs.append(f"run-{len(self.runs)}")
        self.federation.run(SERVER, "run", self.sealed, "--clinics", f"{A},{B}", "--out", self.runs[-1], "--detach")
        self.await_rounds(1)

    def rounds(self) -> int:
        """How many rounds there were in all."""
        return sum(event["event"] == "round" for run in self.runs for event in self.federation.events(run))

    def await_rounds(self, more: int) -> None:
        """Wait for further rounds, or the end of the run."""
        then = self.rounds() + more
        until(
            f"{more} rounds",
            lambda: self.rounds() >= then or self.federation.state(self.runs[-1]).get("status") == "completed",
        )

    def context(self, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
        """What trusts the server, and shows a certificate."""
        context = ssl.create_default_context(cafile=str(self.federation.server / "ca.crt"))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context

    def of(self, clinic: str) -> ssl.SSLContext:
        """What a clinic shows."""
        kit = self.federation.kit(clinic)
        return self.context(kit / "clinic.crt", kit / "clinic.key")

    def made(self, pair: Pair, name: str) -> ssl.SSLContext:
        """What whoever holds a certificate and its key shows."""
        (self.folder / f"{name}.crt").write_bytes(pair.certificate)
        (self.folder / f"{name}.key").write_bytes(pair.key)
        return self.context(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def authority(self) -> Pair:
        """The consortium's own CA."""
        folder = self.federation.folder / "kits" / "authority"
        return Pair((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes())

    def ask(
        self, context: ssl.SSLContext, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, bytes]:
        """Send a request just as it is written, and return the answer's status and body."""
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        with contextlib.closing(connection):
            connection.request("POST", path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def line(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        plain = socket.create_connection(("localhost", self.port), 20)
        return context.wrap_socket(plain, server_hostname="localhost")

    def node(self, clinic: str) -> int:
        """Flower's number of a clinic."""
        rows = self.federation.status()["clinics"]
        return next(int(row["node"]) for row in rows if row["name"] == clinic)

    def signed(self, clinic: str, seconds_ago: float = 0, key: bytes | None = None) -> dict[str, str]:
        """The headers with which a clinic signs a request, as whoever has read one of its requests has them."""
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

        own = (self.federation.kit(clinic) / "node.key").read_bytes()
        private: Any = load_ssh_private_key(key or own, None)
        signed_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_ago)
        timestamp = signed_at.isoformat()
        return {
            "flwr-public-key": base64.b64encode(public_key_to_bytes(private.public_key())).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": base64.b64encode(sign_message(private, timestamp.encode())).decode(),
            "content-type": "application/protobuf",
        }

    def heartbeat(self, clinic: str) -> bytes:
        """The body of a clinic's request."""
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
        from flwr.proto.node_pb2 import Node

        request = SendNodeHeartbeatRequest(node=Node(node_id=self.node(clinic)), heartbeat_interval=10)
        return bytes(request.SerializeToString())


@pytest.fixture(scope="module")
def sieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    made = Siege(tmp_path_factory.mktemp("s") / "s")
    try:
        made.begin()
        yield made
    finally:
        made.federation.close()


@pytest.fixture
def siege(sieged: Siege) -> Siege:
    """With a run under way, beside whatever the test does; the last test sees how it ends."""
    sieged.keep_busy()
    return sieged


def refusals(siege: Siege, context: ssl.SSLContext, headers: dict[str, str], body: bytes = b"") -> set[int]:
    """What the edge answers to a request to the fleet, for commands, and for the state of health, without a word."""
    answers = [siege.ask(context, path, headers, body) for path in (HEARTBEAT, "/v1/control/start-run", "/health", "/")]
    assert {text for _, text in answers} == {b""}
    return {status for status, _ in answers}


def test_without_a_certificate_of_the_consortium_nothing_answers(siege: Siege) -> None:
    """Nobody with the CA's certificate alone, one of a CA of the same name, or one that has ended, is heard."""
    headers, body = siege.signed(A), siege.heartbeat(A)
    other = make_clinic_certificate(make_authority("testing"), "testing", A, 365)
    expired = make_clinic_certificate(siege.authority(), "testing", A, -1)
    for context in (siege.context(), siege.made(other, "other"), siege.made(expired, "expired")):
        assert refusals(siege, context, headers, body) == {400}
    server = siege.federation.server
    assert refusals(siege, siege.context(server / "server.crt", server / "server.key"), headers, body) == {400}


def test_a_certificate_that_the_ca_signed_and_the_server_does_not_know_reaches_nothing(siege: Siege) -> None:
    unknown = siege.made(make_clinic_certificate(siege.authority(), "testing", A, 365), "unknown")
    assert siege.ask(unknown, HEARTBEAT, siege.signed(A), siege.heartbeat(A)) == (403, b"")


def test_a_request_of_a_clinic_is_of_use_to_nobody_else_and_not_for_long(siege: Siege) -> None:
    """It is good from the clinic's own certificate; another clinic, a stranger, or whoever kept it, gets nothing."""
    headers, body = siege.signed(A), siege.heartbeat(A)
    assert siege.ask(siege.of(A), HEARTBEAT, headers, body)[0] == 200
    assert siege.ask(siege.of(B), HEARTBEAT, headers, body) == (403, b"")
    assert siege.ask(siege.context(), HEARTBEAT, headers, body) == (400, b"")
    # Flower leaves five seconds for clocks beside its five minutes.
    assert siege.ask(siege.of(A), HEARTBEAT, siege.signed(A, 290), body)[0] == 200
    for seconds in (306, 3600, -60):
        assert siege.ask(siege.of(A), HEARTBEAT, siege.signed(A, seconds), body)[0] == 401


def test_a_clinic_speaks_for_itself_alone(siege: Siege) -> None:
    """Neither with another's signature or node, nor with a key of its own making."""
    mine, theirs = siege.signed(B), siege.signed(A)
    key = "flwr-public-key"
    assert siege.ask(siege.of(B), HEARTBEAT, mine, siege.heartbeat(B))[0] == 200
    assert siege.ask(siege.of(B), HEARTBEAT, mine, siege.heartbeat(A))[0] == 401
    assert siege.ask(siege.of(B), HEARTBEAT, {**theirs, key: mine[key]}, siege.heartbeat(A))[0] == 401
    assert siege.ask(siege.of(B), HEARTBEAT, {**mine, key: theirs[key]}, siege.heartbeat(A)) == (403, b"")
    new = siege.signed(B, key=make_node_key())
    assert siege.ask(siege.of(B), HEARTBEAT, new, siege.heartbeat(B)) == (403, b"")
    assert siege.ask(siege.of(B), HEARTBEAT, {**new, key: mine[key]}, siege.heartbeat(B))[0] == 401


def test_a_clinic_with_a_key_that_is_not_registered_does_not_come_online(siege: Siege) -> None:
    """The clinic's own command, with a key of its own making: it is turned away, and says so."""
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest

    key = make_node_key()
    headers = siege.signed(REVOKED, key=key)
    public = base64.b64decode(headers["flwr-public-key"])
    assert public_line(key) not in (siege.federation.server / "clinics" / f"{REVOKED}.json").read_text()
    for path, request in (
        ("/v1/fleet/activate-node", ActivateNodeRequest(public_key=public, heartbeat_interval=10)),
        ("/v1/fleet/register-node", RegisterNodeFleetRequest(public_key=public)),
    ):
        assert siege.ask(siege.of(REVOKED), path, headers, request.SerializeToString()) == (403, b"")


def test_a_revoked_clinic_is_out_within_seconds(siege: Siege) -> None:
    from flwr.proto.fleet_pb2 import ActivateNodeRequest

    headers = siege.signed(REVOKED)
    public = base64.b64decode(headers["flwr-public-key"])
    body = ActivateNodeRequest(public_key=public, heartbeat_interval=10).SerializeToString()
    assert siege.ask(siege.of(REVOKED), "/v1/fleet/activate-node", headers, body)[0] == 200
    siege.federation.run(SERVER, "revoke", REVOKED)
    began = time.monotonic()
    refused = (403, b"")
    until(
        "the clinic is out",
        lambda: siege.ask(siege.of(REVOKED), "/v1/fleet/activate-node", siege.signed(REVOKED), body) == refused,
        seconds=30,
    )
    assert time.monotonic() - began < 15
    until("it is told", lambda: [row for row in siege.federation.audit("server") if row["id"] == 2004], seconds=30)


def test_nobody_commands_from_outside(siege: Siege) -> None:
    """Flower's own client of the control interface: with the CA's certificate, and with a clinic's."""
    from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, StartRunRequest, StopRunRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    before = len(siege.federation.status()["runs"])
    for context, status in ((siege.context(), 400), (siege.of(A), 404)):
        client = ControlHttpClient(
            f"https://localhost:{siege.port}",
            interceptors=[RuntimeVersionHttpInterceptor(component_name="stranger")],
            verify=context,
        )
        with contextlib.closing(client):
            for call, request in (
                (client.ListNodes, ListNodesRequest()),
                (client.ListRuns, ListRunsRequest()),
                (client.StartRun, StartRunRequest()),
                (client.StopRun, StopRunRequest(run_id=1)),
            ):
                with pytest.raises(httpx.HTTPStatusError) as caught:
                    call(request)
                assert (caught.value.response.status_code, caught.value.response.content) == (status, b"")
    assert len(siege.federation.status()["runs"]) == before


HIDDEN = [
    "/",
    "/health",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/v1/runtime/pull-messages",
    "/v1/runtime/get-nodes",
    "/v1/control/list-nodes",
    "/v1/fleet/../control/list-nodes",
    "/v1/fleet/..%2fcontrol/list-nodes",
    "/v1/fleet/%2e%2e/control/list-nodes",
    "/v1/fleet/pull-messages/../../control/list-nodes",
    "/v1/fleet/./../control/list-nodes",
    "//v1/control/list-nodes",
    "//v1//fleet//pull-messages",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull%2dmessages",
    "/v1/fleet/pull-messages?path=/v1/control/list-nodes",
    "/v1/fleet/pull-messages;/../../control/list-nodes",
    "/V1/CONTROL/LIST-NODES",
    "http://127.0.0.1/v1/control/list-nodes",
    "https://superlink/v1/control/list-nodes",
]


def test_nothing_but_the_fleet_is_there_for_a_clinic_either_however_it_is_written(siege: Siege) -> None:
    headers = siege.signed(A)
    answers = {path: siege.ask(siege.of(A), path, headers) for path in HIDDEN}
    assert answers == dict.fromkeys(HIDDEN, (404, b""))


def test_a_body_that_is_too_large_is_not_taken(siege: Siege) -> None:
    """It is refused by what it says of its size, and where it says nothing, once it is larger."""
    headers = siege.signed(A)
    line = siege.line(siege.of(A))
    with line:
        head = f"POST {HEARTBEAT} HTTP/1.1\r\nHost: x\r\nflwr-public-key: {headers['flwr-public-key']}\r\n"
        line.sendall(f"{head}Content-Length: {2**40}\r\n\r\n".encode())
        assert b" 413 " in line.recv(4096)
    line = siege.line(siege.of(A))
    with line:
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        for _ in range(63):
            line.sendall(chunk)
        line.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            line.recv(4096)
        line.setblocking(True)
        with contextlib.suppress(OSError):
            for _ in range(8):
                line.sendall(chunk)
        assert b" 413 " in line.recv(4096)


def test_fifty_slow_strangers_hold_up_nobody(siege: Siege) -> None:
    """Half of them never begin, half send a letter now and then: all are thrown out, and the rounds go on."""
    lines: list[socket.socket] = []
    try:
        lines += [socket.create_connection(("localhost", siege.port), 20) for _ in range(25)]
        lines += [siege.line(siege.context()) for _ in range(25)]
        for line in lines[25:]:
            line.sendall(f"POST {HEARTBEAT} HTTP/1.1\r\nX-Slow: ".encode())
            line.setblocking(False)
        before, began, held = siege.rounds(), time.monotonic(), set(lines)

        def drip() -> bool:
            for line in list(held):
                try:
                    if line in lines[25:]:
                        line.send(b"x")
                    line.setblocking(False)
                    if not line.recv(100):
                        held.remove(line)
                except (BlockingIOError, ssl.SSLWantReadError):
                    continue
                except OSError:
                    held.remove(line)
            return not held

        until("all of them are out", drip, seconds=40, every=0.5)
        assert time.monotonic() - began < 30
        assert siege.rounds() > before or siege.federation.state(siege.runs[-1])["status"] == "completed"
    finally:
        for line in lines:
            line.close()


def test_no_plain_http_and_no_old_tls(siege: Siege) -> None:
    with socket.create_connection(("localhost", siege.port), 20) as line:
        line.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        answer = b""
        while part := line.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = siege.of(A)
        # Else it would be this end that refuses.
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):  # that nobody should do this
            context.minimum_version = version
            context.maximum_version = version
        with pytest.raises(ssl.SSLError) as caught:
            siege.line(context)
        assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


@dataclass(frozen=True)
class Listener:
    """A socket that waits for others."""

    program: str
    address: str
    port: int

    @property
    def is_local(self) -> bool:
        address = ipaddress.ip_address(self.address)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def listeners(family: Iterable[int]) -> Iterator[Listener]:
    """What these processes listen on, from the kernel's own tables."""
    sockets: dict[str, str] = {}
    for process in family:
        with contextlib.suppress(OSError):
            program = Path(f"/proc/{process}/comm").read_text().strip()
            for handle in Path(f"/proc/{process}/fd").iterdir():
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(handle.readlink())):
                    sockets[match[1]] = program
    for table, listening in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == listening and fields[9] in sockets:
                address, port = fields[1].split(":")
                words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
                packed = struct.pack(f"={len(words)}I", *words)
                kind = socket.AF_INET if len(words) == 1 else socket.AF_INET6
                yield Listener(sockets[fields[9]], socket.inet_ntop(kind, packed), int(port, 16))


def family_of(federation: Federation) -> list[int]:
    """All processes of the server and the clinics: the daemons, and whatever came of them."""
    family = [daemon.pid for daemon in federation.daemons.values()]
    for process in family:  # which grows
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process}/task").iterdir():
                family += map(int, (thread / "children").read_text().split())
    return family


def test_one_port_is_open_and_everything_else_is_on_loopback(siege: Siege) -> None:
    found = set(listeners(family_of(siege.federation)))
    assert {one for one in found if not one.is_local} == {Listener("nginx", "0.0.0.0", siege.port)}
    # SuperLink, and the SuperNode of each clinic, at least: the test looks at the right processes.
    ports = {one.port for one in found}
    assert siege.federation.ports["superlink"] in ports
    for clinic in (A, B):
        content = yaml.safe_load((siege.federation.kit(clinic) / "clinic.yaml").read_text())
        assert {content["messenger"]["port"], content["health_port"], content["metrics_port"]} <= ports


def secrets_of(siege: Siege) -> dict[str, str]:
    """What may be read nowhere: the keys' own lines, the secrets between processes, and Flower's tokens."""
    kits = siege.federation.folder / "kits"
    found = {}
    for path in [*kits.rglob("*.key"), *kits.rglob("*.secret")]:
        if path.name == "ledger.key":  # bytes, not lines; test_hostile_bundle looks for it
            continue
        text = path.read_text()
        lines = [line for line in text.splitlines() if line and "-----" not in line]
        # The first lines of a key tell its kind, the same for all.
        found[str(path.relative_to(kits))] = lines[len(lines) // 2].strip()
    return found


def tokens_of(siege: Siege) -> set[str]:
    database = sqlite3.connect(f"file:{siege.federation.server / 'state' / 'flower.db'}?mode=ro", uri=True, timeout=20)
    with contextlib.closing(database):
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")] for table in tables}
        return {
            str(value)
            for table, names in columns.items()
            if "token" in names
            for (value,) in database.execute(f"SELECT token FROM {table} WHERE token IS NOT NULL")
        }


def test_no_secret_is_in_a_command_line_or_a_log(siege: Siege) -> None:
    secrets = secrets_of(siege)
    assert {"server/superexec.secret", f"clinics/{A}/node.key", f"clinics/{A}/clinic.key"} <= set(secrets)
    tokens = until("a token", lambda: tokens_of(siege), seconds=60)
    hidden = {**secrets, **{f"token {number}": token for number, token in enumerate(sorted(tokens))}}
    assert min(map(len, hidden.values())) >= 16
    commands = []
    for process in family_of(siege.federation):
        with contextlib.suppress(OSError):
            for words in ("cmdline", "environ"):
                text = Path(f"/proc/{process}/{words}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                assert [name for name, secret in hidden.items() if secret in text] == [], words
                commands.append(text)
    assert any(" serverapp " in command for command in commands)
    logs = [*siege.federation.folder.rglob("*.log"), *siege.federation.folder.rglob("audit.jsonl")]
    assert len(logs) > 8
    for log in logs:
        text = log.read_text(errors="replace")
        assert [name for name, secret in hidden.items() if secret in text] == [], log
        assert "PRIVATE KEY" not in text


def test_what_is_private_can_be_read_by_its_owner_alone(siege: Siege) -> None:
    kits = siege.federation.folder / "kits"

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.lstat().st_mode)

    for folder in (kits / "server", kits / "authority", *(kits / "clinics" / name for name in CLINICS)):
        assert mode(folder) == 0o700, folder
    private = [*kits.rglob("*.key"), *kits.rglob("*.secret"), *kits.rglob("*.zip")]
    assert len(private) > 3 * len(CLINICS)
    for folder in (kits / "server" / "state", kits / "server" / "runs"):
        private += [folder, *folder.rglob("*")]
    for clinic in (A, B):
        state = kits / "clinics" / clinic / "state"
        assert mode(state) == 0o711
        assert mode(state / "run") == 0o2750
        assert {path.name for path in state.iterdir()} == {"worker", "messenger", "run"}
        for half in ("worker", "messenger"):
            private += [state / half, *(state / half).rglob("*")]
    open_to_others = {}
    for path in private:
        with contextlib.suppress(FileNotFoundError):  # a file that was written anew just now
            if mode(path) & 0o077:
                open_to_others[str(path.relative_to(kits))] = oct(mode(path))
    assert open_to_others == {}


def test_the_runs_complete_as_if_nobody_had_been_there(sieged: Siege) -> None:
    """What was lost: nothing. Each run has the model of the undisturbed simulation."""
    federation = sieged.federation
    for run in sieged.runs:
        until(f"{run} ends", lambda run=run: federation.state(run)["status"] not in ("queued", "running"), 500)
        assert federation.state(run)["status"] == "completed", federation.state(run)
        failed = [event["failed"] for event in federation.events(run) if event["event"] == "round"]
        assert failed == [{}] * 10
    simulated = federation.simulate(federation.folder / "study.yaml", "simulated")
    expected = safetensors.numpy.load_file(simulated / "model.safetensors")
    for run in sieged.runs:
        model = safetensors.numpy.load_file(federation.server / "runs" / run / "model.safetensors")
        assert model.keys() == expected.keys()
        assert all(np.array_equal(model[name], expected[name]) for name in model)
