"""Who listens on a port, and whether it is one of melfed's."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import melfed.common.doctor.ports
from melfed.common.doctor.ports import listener, ports

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")

LISTEN = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
)


@pytest.fixture(params=["melfed-server", "other"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A process of some name that listens, and its port."""
    path = tmp_path / request.param
    path.write_text(LISTEN)
    process = subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield request.param, int(process.stdout.readline())
    process.communicate("\n", timeout=10)


def test_a_listener_is_known_by_its_name(program: tuple[str, int]) -> None:
    name, port = program
    command = listener(port)
    assert command is not None
    assert command[1].endswith(name)
    found = ports({"a port": port})
    assert found.status == ("ok" if name == "melfed-server" else "failed")
    assert f"a port {port}" in found.detail


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("/usr/bin/python3", "-P", "-m", "melfed.server.cli.main", "superlink"), "ok"),
        (("nginx: master process nginx -p /x",), "ok"),
        (("/home/x/melfed/.venv/bin/python", "-m", "http.server"), "failed"),
        (("vi", "a", "b", "c", "d", "melfed-notes"), "failed"),
        ((), "warning"),
        (None, "ok"),
    ],
)
def test_whose_process_it_is(command: tuple[str, ...] | None, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melfed.common.doctor.ports, "listener", lambda _: command)
    assert ports({"x": 1}).status == status


def test_a_free_port_has_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert listener(port) is not None
    assert listener(port) is None
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        assert listener(listening.getsockname()[1]) is not None


def test_one_port_for_two() -> None:
    assert ports({"x": 1, "y": 1}).status == "failed"
