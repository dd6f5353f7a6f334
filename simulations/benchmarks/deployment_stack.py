"""A deployed federation on loopback for the benchmarks: a coordinator and its clinics, by melfed's own commands."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

CLINICS = ("phantom_north", "phantom_south", "phantom_east")
"""They are called after the sources of the synthetic lesions that they have."""

SECONDS = 1800.0
"""How long a command may take."""

CLIENT, SERVER, SIM = (Path(sys.executable).with_name(f"melfed-{name}") for name in ("client", "server", "sim"))


class Stack:
    """Clinics and their coordinator, in the order: made, `start`, `seal`, `run`; a context manager that ends all.

    Args:
        folder: empty; everything is written below it.
        images: synthetic lesions of all clinics together, 96 px.
        clinics: how many, at most three.
    """

    def __init__(self, folder: Path, images: int, clinics: int = len(CLINICS)) -> None:
        self.folder, self.clinics = folder, CLINICS[:clinics]
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "FLWR_", "MELFED_"))},
            "HOME": str(folder / "home"),
            "MELFED_SERVER": str(self.server / "server.yaml"),
            # As in the simulation, where each clinic has one core.
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin",
        }
        (folder / "home").mkdir()
        self.command(SIM, "phantom", self.lesions, "--clinics", len(self.clinics), "--images", images)
        self._provision()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for daemon in self.daemons.values():
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)

    @property
    def lesions(self) -> Path:
        """The data folder of all clinics."""
        return self.folder / "lesions"

    @property
    def server(self) -> Path:
        """The coordinator's kit."""
        return self.folder / "kits" / "server"

    def kit(self, clinic: str) -> Path:
        """A clinic's kit."""
        return self.folder / "kits" / "clinics" / clinic

    def run_folder(self, name: str) -> Path:
        """The folder of a run."""
        return self.server / "runs" / name

    def command(self, program: Path, *arguments: object) -> str:
        """Run a command to its end, and return what it prints. Raises RuntimeError where it fails."""
        words = [str(program), *map(str, arguments)]
        done = subprocess.run(  # noqa: S603 (melfed's own commands)
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> float:
        """Start everybody; return after how many seconds all clinics are online."""
        began = time.monotonic()
        self._start("server", SERVER, "start")
        for clinic in self.clinics:
            self._start(clinic, CLIENT, "start", self.kit(clinic))
        until("all clinics are online", lambda: set(self.clinics) <= self._online(), every=1.0)
        return time.monotonic() - began

    def seal(self, study: Path, *changes: str) -> Path:
        """Seal a study at the coordinator, and have all clinics approve it; return its file."""
        sealed = self.folder / f"{study.stem}-{len(list(self.folder.glob('*.yaml')))}.yaml"
        settings = [word for change in changes for word in ("--set", change)]
        self.command(SERVER, "study", study, "--out", sealed, *settings)
        for clinic in self.clinics:
            self.command(CLIENT, "approve", sealed, "--config", self.kit(clinic) / "clinic.yaml")
        return sealed

    def run(self, study: Path, name: str, meanwhile: Callable[[], None] = lambda: None, every: float = 1.0) -> float:
        """Run a sealed study to its end, and look again and again meanwhile; return the command's seconds.

        Raises:
            RuntimeError: it failed.
        """
        began = time.monotonic()
        with (self.folder / f"run-{name}.log").open("wb") as log:
            words = [str(SERVER), "run", str(study), "--out", name]
            running = subprocess.Popen(  # noqa: S603 (melfed's own command)
                words, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        running.wait(every)
                        break
                    self._check_daemons()
                    meanwhile()
            finally:
                running.kill()
        if running.returncode != 0:
            raise RuntimeError(f"run {name}: exit code {running.returncode}\n{Path(log.name).read_text()}")
        return time.monotonic() - began

    def simulate(self, study: Path, name: str) -> Path:
        """Run the same sealed study in simulation; return its run folder."""
        out = self.folder / f"simulated-{name}"
        self.command(SIM, "run", study, "--data", self.lesions, "--out", out)
        return out

    def round(self, name: str) -> int:
        """The last finished round of a run."""
        try:
            return int(json.loads((self.run_folder(name) / "state.json").read_text())["round"])
        except FileNotFoundError:
            return 0

    def server_audit(self) -> list[dict[str, Any]]:
        """The coordinator's audit log."""
        return rows(self.server / "state" / "audit.jsonl")

    def clinic_audit(self, clinic: str) -> list[dict[str, Any]]:
        """A worker's audit log."""
        return rows(self.kit(clinic) / "state" / "worker" / "audit.jsonl")

    def log(self, name: str) -> str:
        """What a clinic's processes have printed, or the server's."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def database_bytes(self) -> int:
        """Bytes of SuperLink's database on disk, with its journal."""
        return sum(path.stat().st_size for path in (self.server / "state").glob("flower.db*"))

    def object_bytes(self) -> int:
        """Bytes of the pieces of arrays that SuperLink keeps in files."""
        found = 0
        for path in (self.server / "state" / "objects").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found += path.stat().st_size
        return found

    def _provision(self) -> None:
        import yaml

        ports = free_ports(4 + 3 * len(self.clinics))
        clinics = [
            {
                "name": name,
                "data": {"folder": str(self.lesions), "sources": [name]},
                "messenger_port": next(ports),
                "health_port": next(ports),
                "metrics_port": next(ports),
            }
            for name in self.clinics
        ]
        server = {"names": ["localhost"], "address": "127.0.0.1", "port": next(ports), "superlink_port": next(ports)}
        server |= {"health_port": next(ports), "metrics_port": next(ports)}
        consortium = self.folder / "consortium.yaml"
        consortium.write_text(yaml.safe_dump({"name": "benchmark", "server": server, "clinics": clinics}))
        self.command(SERVER, "provision", consortium, "--out", self.folder / "kits")
        for name in self.clinics:
            path = self.kit(name) / "clinic.yaml"
            content = yaml.safe_load(path.read_text())
            content["resources"] = {**(content.get("resources") or {}), "threads": 1}
            content["policy"] |= {"epsilon": 1000.0, "noise_multiplier": 0.01, "non_private": True}
            path.write_text(yaml.safe_dump(content))

    def _start(self, name: str, program: Path, *arguments: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(  # noqa: S603 (melfed's own commands)
                [str(program), *map(str, arguments)],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _check_daemons(self) -> None:
        for name, daemon in self.daemons.items():
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} has ended:\n{self.log(name)[-2000:]}")

    def _online(self) -> set[str]:
        self._check_daemons()
        with contextlib.suppress(RuntimeError):
            clinics = json.loads(self.command(SERVER, "status", "--json"))["clinics"]
            return {clinic["name"] for clinic in clinics if clinic["online"]}
        return set()


def has_nginx() -> bool:
    """Whether nginx is installed, without which no server starts."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def free_ports(count: int) -> Iterator[int]:
    """Yield ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        found = [int(one.getsockname()[1]) for one in sockets]
    yield from found


def until(what: str, condition: Callable[[], object], seconds: float = 300.0, every: float = 0.2) -> None:
    """Wait until something is so that other processes do. Raises RuntimeError where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
