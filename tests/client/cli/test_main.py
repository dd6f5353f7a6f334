"""`melfed-client ledger`: quick help, every charge once, and damage told in one line with its exit code."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import pytest

import melfed.client.cli.main
from melfed.client.ledger.ledger import Ledger
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from tests.client.ledger.ledgers import DATA, FREE, charge, cheap_epsilon, written

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from melfed.client.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of two clinics: north has released two charges and been killed in a third, south has one."""
    folder = tmp_path / "run"
    north = written(folder / "ledgers" / "north.jsonl", 2)
    with Ledger.open(north, DATA) as ledger:
        ledger.reserve(charge(2, Mechanism(1.0, 4.0, 1), purpose="evaluation"), FREE)
    written(folder / "ledgers" / "south.jsonl", 1)
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; return its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["melfed-client", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            melfed.client.cli.main.main()
        captured = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


def test_the_version_is_printed(command) -> None:
    assert command("--version") == (0, f"melfed {version('melfed')}\n", "")


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
