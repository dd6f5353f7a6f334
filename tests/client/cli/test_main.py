"""`melfed-client`: its version, quick help, and what its commands load."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import pytest

from melfed.client.privacy import accounting
from tests.client.ledger.ledgers import cheap_epsilon

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from melfed.client.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


def test_the_version_is_printed(answer_of) -> None:
    assert answer_of("--version") == (0, f"melfed {version('melfed')}\n", "")


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["ledger", "--help"], ["ledger", "export", "--help"]])
def test_help_is_quick(arguments: list[str]) -> None:
    seconds = []
    for _ in range(3):
        started = perf_counter()
        done = process(*arguments)
        seconds.append(perf_counter() - started)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        if seconds[-1] < 1:
            break
    assert min(seconds) < 2, "one second, and another for a busy machine"


def test_commands_load_nothing_heavy(run: Path) -> None:
    code = "import sys, melfed.client.cli.main, melfed.client.ledger.ledger; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "opacus", "dp_accounting", "scipy", "sklearn", "flwr", "ray"}
