"""Commands in real processes, in a folder and an environment of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CLIENT, SERVER, SIM = (Path(sys.executable).with_name(f"melfed-{name}") for name in ("client", "server", "sim"))
REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 240
SIX_CLINICS = """\
name: six
data: {image_size: 32, phantom: {images: 240, clinics: 6, melanoma_rate: 0.4}}
partition: {minimum_images: 4}
model: {backbone: simple_cnn, pretrained: false}
training: {batch_size: 2, local_epochs: 15, warmup_steps: 0, learning_rate: 1e-3}
federation: {rounds: 2}
resources: {cpus: 1}
"""
"""A study whose rounds last long enough to be disturbed."""

# Loaded by every Python process of a run: writes down each connection that would leave this machine.
WATCH = """\
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
        own = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None)}
        if address[0] not in own:
            with open(os.environ["MELFED_TEST_LOG"], "a") as log:
                log.write(f"{address}\\n")
    return _connect(self, address)
socket.socket.connect = connect
"""


class Place:
    """A folder with a study and an environment of its own."""

    def __init__(self, folder: Path, study: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.log = folder / "connections.txt"
        (folder / "watch").mkdir()
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        self.study = folder / "study.yaml"
        self.study.write_text(study)
        self.environment = {
            **os.environ,
            "HOME": str(self.home),
            "MELFED_CACHE": str(folder / "cache"),
            "MELFED_TEST_LOG": str(self.log),
            # What is tested is this tree, whichever is installed.
            "PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(REPOSITORY), str(REPOSITORY / "src")]),
        }
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "FLWR_HOME"):
            self.environment.pop(name, None)

    def start(self, program: Path, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(program), *(str(argument) for argument in arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, program: Path, *arguments: object) -> str:
        """Run a command to its end and return what it printed on stdout."""
        code, out, err = self.answer(program, *arguments)
        assert code == 0, err
        return out

    def answer(self, program: Path, *arguments: object) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, stdout and stderr."""
        process = self.start(program, *arguments)
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err

    def kill(self, process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
        """Kill a command and all its processes as soon as something is so."""
        deadline = time.monotonic() + SECONDS
        while not when():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)  # what appears in a file is no event that Python can wait for
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=SECONDS)
