"""Who listens on a port, and whether it was started with this side's configuration."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

import melfed.common.doctor.ports
from melfed.common.doctor.ports import is_of, listeners, ports

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")

LISTEN = """
import socket, subprocess, sys
if sys.argv[1] == "parent":
    sys.exit(subprocess.run([sys.executable, "-c", open(sys.argv[0]).read(), "child"]).returncode)
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
input()
"""

Listening = Callable[..., tuple[int, int]]


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    """Start programs of any name that listen, and return each one's port and process id."""
    with ExitStack() as stack:

        def start(name: str, *arguments: str, folder: Path = tmp_path) -> tuple[int, int]:
            path = tmp_path / name
            path.write_text(LISTEN)
            process = subprocess.Popen(
                [sys.executable, str(path), *arguments],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate, "\n", timeout=10)
            assert process.stdout is not None
            return int(process.stdout.readline()), process.pid

        yield start


@pytest.fixture
def kits(tmp_path: Path) -> tuple[Path, Path]:
    """Two servers' configurations on one machine."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "server.yaml").touch()
    return tmp_path / "a/server.yaml", tmp_path / "b/server.yaml"


HOW = ["absolute", "relative", "equals", "the current folder's", "the kit's folder", "a child's"]


@pytest.mark.parametrize("how", HOW)
def test_a_process_is_of_the_configuration_that_it_was_started_with(
    how: str, listening: Listening, kits: tuple[Path, Path]
) -> None:
    own, other = kits
    port, _ = {
        "absolute": lambda: listening("melfed-server", "start", "--config", str(own)),
        "relative": lambda: listening("melfed-server", "start", "a/server.yaml"),
        "equals": lambda: listening("melfed-server", "start", f"--config={own}"),
        "the current folder's": lambda: listening("melfed-server", "start", folder=own.parent),
        "the kit's folder": lambda: listening("melfed-server", "start", "a/"),
        "a child's": lambda: listening("melfed-server", "parent", "--config", str(own)),
    }[how]()
    assert ports({"a port": port}, own).status == "ok"
    found = ports({"a port": port}, other)
    assert found.status == "failed"
    assert f"a port {port} by python" in found.detail


@pytest.mark.parametrize("name", ["other", "nginx", "flower-superlink", "not-melfed-server"])
def test_a_name_does_not_make_a_process_ones_own(name: str, listening: Listening, kits: tuple[Path, Path]) -> None:
    port, pid = listening(name, "start", "--config", str(kits[0]))
    found = ports({"a port": port}, kits[0])
    assert found.status == "failed"
    assert f"(pid {pid})" in found.detail


def test_a_hidden_process_may_be_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melfed.common.doctor.ports, "listeners", lambda _: ())
    assert ports({"x": 1}, Path("server.yaml")).status == "warning"


def test_a_process_that_has_ended_is_nobodys(kits: tuple[Path, Path]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        child.communicate(b"\n")
    assert not is_of(process, kits[0])
    assert not is_of(psutil.Process(os.getpid()), kits[0])


def test_a_free_port_has_no_listeners() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert listeners(port) is not None
    assert listeners(port) is None
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        assert listeners(listening.getsockname()[1]) is not None


def test_one_port_for_two() -> None:
    assert ports({"x": 1, "y": 1}, Path("server.yaml")).status == "failed"
