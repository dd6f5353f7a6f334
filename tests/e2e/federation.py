"""A whole deployed federation in real processes on loopback: one coordinator and a few clinics, by melfed's commands.

Nothing here reaches into the programs: tests use the commands, the files that they document, and signals.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from melfed.client.data.split import simulation_key
from melfed.common.seeds import seed_for
from tests.e2e.place import CLIENT, SERVER, SIM

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
SECONDS = 240
DAEMON = "MELFED_TEST_DAEMON"
"""Names the daemon that a process descends from."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are taken at once, so that none comes twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(what: str, condition: Callable[[], Any], seconds: float = SECONDS, every: float = 0.1) -> Any:
    """Wait until something is so, and return it. What other processes do is no event that Python can wait for."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)


def processes() -> Iterator[tuple[int, str]]:
    """All processes with their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:
                    yield int(entry.name), command


class Federation:
    """A coordinator and its clinics below one folder.

    Each clinic divides its images as the virtual clinic of its name does in a simulation of a study of seed 0.

    Args:
        folder: empty; everything is written below it.
        lesions: a data folder whose sources are the clinics' names.
        clinics: names; each uses the images of the source of its own name.
        gate: where clinics connect to, in place of nginx's own port (a forwarder that a test can cut).
        weights: files that go into every kit.
    """

    def __init__(
        self,
        folder: Path,
        lesions: Path,
        clinics: tuple[str, ...],
        policy: Mapping[str, Any] | None = None,
        gate: int | None = None,
        weights: tuple[Path, ...] = (),
    ) -> None:
        self.folder, self.lesions, self.clinics, self.weights = folder, lesions, clinics, weights
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "MELFED_SERVER": str(self.server / "server.yaml"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin",
        }
        (folder / "home").mkdir()
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "FLWR_HOME", "MELFED_CLINIC", "MELFED_CACHE"):
            self.environment.pop(name, None)
        self.ports = dict(zip(("edge", "superlink", "health", "metrics"), free_ports(4), strict=True))
        self.gate = gate or self.ports["edge"]
        self._provision()
        for name in clinics:
            self._divide_as_simulated(name)
            # As a virtual clinic: with other numbers of threads, sums are rounded in another order.
            self.configure(name, {"resources": {"threads": 1}})
            self.configure(name, {"policy": {"studies": [], "epsilon": 20, "noise_multiplier": 0.1, **(policy or {})}})

    @property
    def server(self) -> Path:
        """The coordinator's kit."""
        return self.folder / "kits" / "server"

    def kit(self, clinic: str) -> Path:
        """A clinic's kit."""
        return self.folder / "kits" / "clinics" / clinic

    def consortium(self, clinics: tuple[str, ...]) -> Path:
        """Write consortium.yaml for these clinics."""
        rows = []
        for clinic in clinics:
            runtime, health, metrics = free_ports(3)
            row = {"name": clinic, "data": {"folder": str(self.lesions), "sources": [clinic]}}
            rows.append({**row, "messenger_port": runtime, "health_port": health, "metrics_port": metrics})
        content = {
            "name": "testing",
            "server": {
                "names": ["localhost"],
                "port": self.ports["edge"],
                "address": "127.0.0.1",
                "superlink_port": self.ports["superlink"],
                "health_port": self.ports["health"],
                "metrics_port": self.ports["metrics"],
            },
            "clinics": rows,
            "weights": [str(path) for path in self.weights],
        }
        path = self.folder / "consortium.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def _provision(self) -> None:
        self.run(SERVER, "provision", self.consortium(self.clinics), "--out", self.folder / "kits")

    def _divide_as_simulated(self, clinic: str) -> None:
        """Give a clinic the secret that a simulation of seed 0 has, so that both divide its images alike."""
        secret = self.kit(clinic) / "state" / "worker" / "ledger.key"
        secret.parent.mkdir(mode=0o700, parents=True)
        secret.write_bytes(simulation_key(seed_for(0, "partition")))
        secret.chmod(0o600)

    def configure(self, clinic: str, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change keys of a clinic's clinic.yaml."""
        path = self.kit(clinic) / "clinic.yaml"
        content = yaml.safe_load(path.read_text())
        for section, keys in {"coordinator": {"port": self.gate}, **changes}.items():
            content[section] = {**(content.get(section) or {}), **keys}
        path.write_text(yaml.safe_dump(content))

    def run(self, program: Path, *arguments: object, code: int = 0, seconds: float = SECONDS) -> str:
        """Run a command to its end; return its stdout, or with another exit code its stderr."""
        command = [str(program), *(str(argument) for argument in arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def clinic(self, name: str, *arguments: object, code: int = 0) -> str:
        """Run `melfed-client` for a clinic."""
        first, *rest = arguments
        return self.run(CLIENT, first, *rest, "--config", self.kit(name) / "clinic.yaml", code=code)

    def clinic_status(self, name: str) -> dict[str, Any]:
        """What `melfed-client status --json` says, whether the clinic is ready or not."""
        command = [str(CLIENT), "status", "--json", "--config", str(self.kit(name) / "clinic.yaml")]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        content: dict[str, Any] = json.loads(done.stdout)
        return content

    def start(self, name: str, program: Path, *arguments: object) -> None:
        """Start a daemon; its output goes to NAME.log."""
        log = (self.folder / f"{name}.log").open("ab")
        command = [str(program), *(str(argument) for argument in arguments)]
        environment = {**self.environment, DAEMON: name}
        self.daemons[name] = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        log.close()

    def start_server(self) -> None:
        """Start the coordinator's daemon."""
        self.start("server", SERVER, "start")

    def start_clinic(self, clinic: str) -> None:
        """Start a clinic's daemon."""
        self.start(clinic, CLIENT, "start", "--config", self.kit(clinic) / "clinic.yaml")

    def start_all(self) -> None:
        """Start everybody, and wait until all clinics are online."""
        self.start_server()
        for clinic in self.clinics:
            self.start_clinic(clinic)
        self.wait_online(*self.clinics)

    def wait_online(self, *clinics: str) -> None:
        """Wait until the coordinator sees these clinics."""
        until(f"{clinics} online", lambda: set(clinics) <= self.online(), every=1.5)  # a command each time

    def status(self) -> dict[str, Any]:
        """What `melfed-server status --json` says."""
        content: dict[str, Any] = json.loads(self.run(SERVER, "status", "--json"))
        return content

    def online(self) -> set[str]:
        """Names of the clinics that are online."""
        done = subprocess.run(
            [str(SERVER), "status", "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            return set()
        return {clinic["name"] for clinic in json.loads(done.stdout)["clinics"] if clinic["online"]}

    def kill(self, *markers: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the one process whose command line holds all markers; return its id."""
        found = [pid for pid, command in processes() if all(marker in command for marker in markers)]
        assert found, f"no process with {markers}"
        os.kill(min(found), number)
        return min(found)

    def descendants(self, name: str) -> dict[int, str]:
        """What runs below a daemon, and the daemon itself: ids and command lines."""
        mark, home = f"{DAEMON}={name}".encode(), f"HOME={self.environment['HOME']}".encode()
        found = {}
        for pid, command in processes():
            with contextlib.suppress(OSError):
                if {mark, home} <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                    found[pid] = command
        return found

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a daemon and return its exit code."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        return daemon.wait(timeout=60)

    def close(self) -> None:
        """End everything, however it is."""
        for name in list(self.daemons):
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                self.stop(name)
        for pid, command in processes():
            if str(self.folder) in command and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def state(self, run: str) -> dict[str, Any]:
        """A run's state.json; empty before there is one."""
        try:
            content: dict[str, Any] = json.loads((self.server / "runs" / run / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return content

    def events(self, run: str) -> list[dict[str, Any]]:
        """A run's events so far."""
        path = self.server / "runs" / run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def audit(self, name: str) -> list[dict[str, Any]]:
        """Rows of the audit log of a clinic, or of "server"."""
        path = (
            self.server / "state" / "audit.jsonl" if name == "server" else self.kit(name) / "state/worker/audit.jsonl"
        )
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def simulate(self, study: Path, out: str) -> Path:
        """Run the same study in simulation on the same lesions; return its run folder."""
        weights = ("--weights-dir", self.weights[0].parent) if self.weights else ()
        self.run(SIM, "run", study, "--data", self.lesions, "--out", self.folder / out, *weights, seconds=2 * SECONDS)
        return self.folder / out
