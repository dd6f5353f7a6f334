"""A run with ledgers, and the command called in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import melfed.client.cli.main
from melfed.client.ledger.ledger import Ledger
from melfed.client.privacy.accounting import Mechanism
from tests.client.ledger.ledgers import DATA, FREE, charge, written


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
def answer_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; return its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["melfed-client", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            melfed.client.cli.main.main()
        captured = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call
