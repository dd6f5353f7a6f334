"""A SuperLink on loopback with one clinic's SuperNode and messenger, as processes, and a small app to send there."""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from melfed.client.config.clinic import ClinicConfig, read_clinic

REPOSITORY = Path(__file__).resolve().parents[2]
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}

PROJECT = """
[project]
name = "trivial"
version = "1.0.0"
description = "Asks the one clinic several times, and writes down what comes back."
license = { text = "Apache-2.0" }
dependencies = []
[tool.flwr.app]
publisher = "melfed"
[tool.flwr.app.components]
serverapp = "trivial.server:app"
clientapp = "trivial.clinic:app"
[tool.flwr.app.config]
out = ""
asks = 1
delay = 0.0
floats = 0
patience = 40.0
"""

SERVER = """
import json, time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    config = context.run_config
    out = Path(str(config["out"]))
    for number in range(int(config["asks"])):
        while not (nodes := list(grid.get_node_ids())):
            time.sleep(0.1)
        content = RecordDict({"q": ConfigRecord({"delay": float(config["delay"]), "out": str(out)})})
        content["a"] = ArrayRecord([np.zeros(int(config["floats"]), "float32")])
        started = time.time()
        sent = list(grid.push_messages([Message(content, nodes[0], "query.sleep", ttl=float(config["patience"]) + 5)]))
        found = []
        while not found and time.time() - started < float(config["patience"]):
            found = list(grid.pull_messages(sent))
            time.sleep(0.05)
        line = {"number": number, "seconds": time.time() - started, "error": None, "at": 0.0}
        if not found:
            line["error"] = "silence"
        elif found[0].has_error():
            line["error"] = str(found[0].error.reason)
        else:
            line |= dict(found[0].content.config_records["r"])
            line["at"] -= started
        with out.open("a") as file:
            file.write(json.dumps(line) + "\\n")
"""

CLINIC = """
import os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("sleep")
def sleep(message, context):
    at = time.time()
    asked = message.content.config_records["q"]
    if asked["delay"]:
        Path(str(asked["out"])).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(float(asked["delay"]))
    clinic = str(context.node_config["clinic"])
    content = RecordDict({"r": ConfigRecord({"at": at, "pid": os.getpid(), "clinic": clinic})})
    content["a"] = message.content.array_records["a"]
    return Message(content, reply_to=message)
"""


def bundle(extra: str = "") -> bytes:
    """The app; `extra` makes another bundle of it."""
    from flwr.cli.build import build_fab_from_files

    files = {"pyproject.toml": PROJECT, "trivial/__init__.py": "", "trivial/server.py": SERVER}
    files["trivial/clinic.py"] = CLINIC + extra
    content: bytes = build_fab_from_files({name: text.encode() for name, text in files.items()})[0]
    return content


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_kit(folder: Path, apps: list[str], port: int) -> ClinicConfig:
    """A CA, the server's certificate, and a clinic's kit."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("ca", "server", "clinic", "node")}
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
    for name in ("ca", "server", "clinic"):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(keys[name].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        )
        if name == "server":
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        certificate = builder.sign(keys["ca"], hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    forms = {"server": "TraditionalOpenSSL", "clinic": "TraditionalOpenSSL", "node": "OpenSSH"}
    for name, form in forms.items():
        kind = getattr(serialization.PrivateFormat, form)
        secret = keys[name].private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
        path = folder / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(secret)
    public = keys["node"].public_key()
    (folder / "node.pub").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (folder / "clinic.yaml").write_text(
        f"name: clinic1\ncoordinator: {{host: 127.0.0.1, port: {port}}}\n"
        f"messenger: {{port: {free_port()}}}\ndata: {{folder: data}}\npolicy: {{epsilon: 3}}\n"
        f"apps: {json.dumps(apps)}\n"
    )
    return read_clinic(folder / "clinic.yaml")


class Wire:
    """Passes connections on to a port, until it is cut: then nothing goes through, and nobody is told."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.passed = 0
        self.cut_after: float = float("inf")
        self._whole = threading.Event()
        self._whole.set()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self.cut_after = float("inf")
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        self._whole.set()

    @property
    def is_cut(self) -> bool:
        return not self._whole.is_set()

    def close(self) -> None:
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self._open.append(near)
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            near.close()
            return
        self._open.append(far)
        threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()
        self._pump(near, far, True)

    def _pump(self, source: socket.socket, target: socket.socket, upward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if upward:
                    self.passed += len(data)
                    if self.passed > self.cut_after:
                        self.cut()
                self._whole.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other direction waits for this end


@dataclass
class Stack:
    """The processes; each is started and ended by its name. The SuperNode reaches SuperLink through `wire`."""

    folder: Path
    config: ClinicConfig
    port: int
    wire: Wire
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        command = {
            "superlink": self._superlink,
            "superexec": self._superexec,
            "supernode": lambda: self._own("supernode"),
            "messenger": lambda: self._own("superexec"),
        }[name]()
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = os.environ | QUIET | {"FLWR_HOME": str(self.folder / "flower")}
            environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(20)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def _superlink(self) -> list[str]:
        return [
            str(Path(sys.executable).with_name("flower-superlink")),
            *("--host", "127.0.0.1", "--port", str(self.port), "--isolation", "process", "--enable-supernode-auth"),
            *("--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key", "--ssl-ca-certfile", "ca.crt"),
            *("--superexec-auth-secret-file", "server.secret", "--database", "flower.db"),
            "--disable-runtime-dependency-installation",
        ]

    def _superexec(self) -> list[str]:
        return [
            str(Path(sys.executable).with_name("flower-superexec")),
            *("--runtime-api-address", f"127.0.0.1:{self.port}", "--root-certificates", "ca.crt"),
            *("--superexec-auth-secret-file", "server.secret"),
        ]

    def _own(self, name: str) -> list[str]:
        code = f"""
import sys; from pathlib import Path; from melfed.client.config.clinic import read_clinic
from melfed.client.flower.{name} import main
try:
    sys.exit(main(read_clinic(Path("clinic.yaml"))))
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(getattr(error, "exit_code", 1))
"""
        return [sys.executable, "-c", code]

    @contextlib.contextmanager
    def control(self) -> Iterator[Any]:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        interceptors = [RuntimeVersionHttpInterceptor(component_name="test")]
        client = ControlHttpClient(f"https://127.0.0.1:{self.port}", interceptors=interceptors, verify=context)
        with client:
            yield client

    def node(self) -> Any:
        """What SuperLink knows of the clinic."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with self.control() as client:
            return client.ListNodes(ListNodesRequest()).nodes_info[0]

    def register(self) -> None:
        from flwr.proto.control_pb2 import RegisterNodeRequest

        key = (self.folder / "node.pub").read_bytes()
        with self.control() as client:
            client.RegisterNode(RegisterNodeRequest(public_key=key, name="clinic1"))

    def run(self, app: bytes, out: Path, **settings: float) -> int:
        """Start a run; its ServerApp writes a line an answer to `out`."""
        import hashlib

        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab
        from flwr.proto.transport_pb2 import Scalar

        values = {"out": Scalar(string=str(out))}
        for name, value in settings.items():
            values[name] = Scalar(sint64=value) if isinstance(value, int) else Scalar(double=value)
        fab = Fab(hash_str=hashlib.sha256(app).hexdigest(), content=app)
        with self.control() as client:
            return int(client.StartRun(StartRunRequest(fab=fab, override_config=values)).run_id)

    def stop_run(self, run: int) -> None:
        from flwr.proto.control_pb2 import StopRunRequest

        with self.control() as client:
            client.StopRun(StopRunRequest(run_id=run))

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(10)


@contextlib.contextmanager
def stack(folder: Path, apps: list[str]) -> Iterator[Stack]:
    """Start all four, and end them."""
    port = free_port()
    wire = Wire(port)
    config = write_kit(folder, apps, wire.port)
    (folder / "server.secret").write_text("a secret of the test")
    made = Stack(folder, config, port, wire)
    try:
        made.start("superlink")
        made.start("superexec")
        until(made.register, 60)
        made.start("supernode")
        made.start("messenger")
        until(lambda: made.node().status == "online" or 1 / 0, 60)
        yield made
    finally:
        made.end()
        wire.close()


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait for a condition that is true and raises nothing."""
    import httpx

    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition() or condition.__name__ == "register":
                return found
        except (httpx.HTTPError, ZeroDivisionError, OSError, IndexError):
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.05)


def answers(out: Path) -> list[dict[str, Any]]:
    """What the ServerApp has written so far."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
